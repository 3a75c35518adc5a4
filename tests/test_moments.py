import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, Moments
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain

RNG = np.random.default_rng(0)
SERIES = [RNG.normal(size=(n, 2)).cumsum(0) / 5 for n in (60, 41, 33)]
PAIRS = lagged_pairs(SERIES, 2)
A_F, A_G = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 3))


def f(x):
    return torch.cat([torch.ones(len(x), 1), torch.tanh(x @ torch.as_tensor(A_F, dtype=x.dtype))], dim=1)


def g(x):
    return torch.cos(x @ torch.as_tensor(A_G, dtype=x.dtype))


def complex_f(x):
    return torch.exp(1j * f(x))


def h(x):
    return x**2


def explicit(f, g, pairs, h=None):
    """Every moment from its definition in MATH.md, section 2."""
    x, y = pairs.x, pairs.x_next
    parts = {"f0": f(x), "f1": f(y), "g0": g(x), "g1": g(y)} | ({"h0": h(x), "h1": h(y)} if h else {})
    parts = {name: value.numpy().astype(complex) for name, value in parts.items()}
    wanted = {
        "M_f": "f0 f0", "M_g": "g1 g1", "T_fg": "f0 g1", "T_ff": "f0 f1", "M_f1": "f1 f1", "T_gg": "g0 g1",
        "M_g0": "g0 g0", "C_gf": "g1 f1", "C_fg": "f0 g0",
    } | ({"H_f": "f0 h0", "H_g": "g1 h1", "M_h": "h0 h0"} if h else {})  # fmt: skip
    return {
        name: np.mean([np.outer(a.conj(), b) for a, b in zip(*(parts[p] for p in both.split()), strict=True)], axis=0)
        for name, both in wanted.items()
    }


def assert_same(a, b, but=(), **tolerance):
    assert set(a.names) == set(b.names)
    assert a.n_pairs == b.n_pairs
    for name in set(a.names) - set(but):
        assert np.allclose(getattr(a, name), getattr(b, name), **({"rtol": 1e-12, "atol": 1e-14} | tolerance)), name


@pytest.mark.parametrize("left", [f, complex_f], ids=["real", "complex"])
def test_every_moment_is_what_its_name_says(left):
    moments = estimate_moments(left, g, PAIRS, observables=h)
    for name, value in explicit(left, g, PAIRS, h).items():
        assert np.allclose(getattr(moments, name), value, rtol=1e-12), name
    assert moments.n_pairs == len(PAIRS)
    assert np.iscomplexobj(moments.T_fg) == (left is complex_f)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("n_blocks", [1, 5, 64, 1000])
def test_batches_and_blocks_do_not_change_the_moments(batch_size, n_blocks):
    whole = estimate_moments(complex_f, g, PAIRS, n_blocks=1, batch_size=10_000)
    assert_same(estimate_moments(complex_f, g, PAIRS, n_blocks=n_blocks, batch_size=batch_size), whole)


@pytest.mark.parametrize("batch_size", [5, 32, 1000])
def test_every_kind_of_source_agrees(batch_size):
    whole = estimate_moments(f, g, PAIRS)
    batches = list(zip(PAIRS.x.split(batch_size), PAIRS.x_next.split(batch_size), strict=True))
    sources = {
        "tuple of tensors": (PAIRS.x, PAIRS.x_next),
        "tuple of arrays": (PAIRS.x.numpy(), PAIRS.x_next.numpy()),
        "list of batches": batches,
        "generator": (batch for batch in batches),
        "loader": DataLoader(TensorDataset(PAIRS.x, PAIRS.x_next), batch_size=batch_size),
        "shuffled loader": DataLoader(
            TensorDataset(PAIRS.x, PAIRS.x_next),
            batch_size=batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
        ),
    }
    for source in sources.values():
        # a stream sets the scale of its phase functional by its first batch, so only signs can agree
        assert_same(estimate_moments(f, g, source), whole, but=["phase_f"])


def test_blocks_of_memory_and_of_streams():
    assert estimate_moments(f, g, PAIRS, n_blocks=10).n_blocks == pytest.approx(10, abs=3)
    assert estimate_moments(f, g, (PAIRS.x, PAIRS.x_next), n_blocks=10).n_blocks == 10
    assert estimate_moments(f, g, (PAIRS.x, PAIRS.x_next)).n_blocks == 64
    batches = list(zip(PAIRS.x.split(3), PAIRS.x_next.split(3), strict=True))
    streamed = estimate_moments(f, g, iter(batches), n_blocks=8)
    assert 8 <= streamed.n_blocks < 16
    assert streamed.n_pairs == len(PAIRS)


@pytest.mark.parametrize("shuffle_seed", range(4))
@pytest.mark.parametrize("batch_size", [16, 64])
def test_shuffled_loaders_give_the_same_phases(shuffle_seed, batch_size):
    loader = DataLoader(
        TensorDataset(PAIRS.x, PAIRS.x_next),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(shuffle_seed),
    )
    wanted = koopman_spectrum(estimate_moments(f, g, PAIRS)).left_coefficients.values
    got = koopman_spectrum(estimate_moments(f, g, loader)).left_coefficients.values
    assert np.allclose(got, wanted, atol=1e-6)


@given(cut=st.integers(1, 127))
def test_two_parts_add_up_to_the_whole(cut):
    whole = estimate_moments(complex_f, g, PAIRS, observables=h)
    parts = [
        estimate_moments(complex_f, g, PAIRS.select(i), observables=h) for i in np.split(np.arange(len(PAIRS)), [cut])
    ]
    assert_same(parts[0] + parts[1], whole, but=["phase_f"])
    assert (parts[0] + parts[1]).n_blocks == parts[0].n_blocks + parts[1].n_blocks


def test_only_like_moments_add():
    with pytest.raises(ValueError, match="moments to add must hold the same names"):
        estimate_moments(f, g, PAIRS) + estimate_moments(f, g, PAIRS, names=CROSS)
    with pytest.raises(TypeError):
        estimate_moments(f, g, PAIRS) + 1


def test_weights_of_one_give_the_means_and_counts_repeat_blocks():
    moments = estimate_moments(complex_f, g, PAIRS, n_blocks=6)
    weights = np.ones((2, moments.n_blocks))
    weights[1] = np.arange(moments.n_blocks)
    result = moments.reweighted(weights)
    repeated = moments.merged(np.repeat(np.arange(moments.n_blocks), np.arange(moments.n_blocks)))
    for name in moments.names:
        assert np.allclose(result[name][0], getattr(moments, name), rtol=1e-13)
        assert np.allclose(result[name][1], getattr(repeated, name), rtol=1e-13)


@given(seed=st.integers(0, 1000), is_complex=st.booleans(), width=st.integers(1, 6))
def test_transformed_moments_are_those_of_transformed_features(seed, is_complex, width):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(5, width)), rng.normal(size=(3, 3))
    if is_complex:
        A, B = A + 1j * rng.normal(size=A.shape), B + 1j * rng.normal(size=B.shape)
    left = complex_f if is_complex else f
    direct = estimate_moments(lambda x: left(x).numpy() @ A, lambda x: g(x).numpy() @ B, PAIRS, observables=h)
    assert_same(estimate_moments(left, g, PAIRS, observables=h).transformed(A, B), direct, atol=1e-11)


def test_one_hot_features_give_the_empirical_transition_matrix():
    chain = FiniteMarkovChain([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    data = chain.simulate(n_trajectories=3, n_steps=400, seed=1)
    pairs = lagged_pairs(data, 2)
    counts = np.zeros((3, 3))
    for trajectory in data.values.argmax(-1):
        for i, j in zip(trajectory[:-2], trajectory[2:], strict=True):
            counts[i, j] += 1
    moments = estimate_moments(lambda x: x, lambda x: x, pairs)
    assert np.allclose(moments.T_fg * moments.n_pairs, counts)
    assert np.allclose(np.linalg.solve(moments.M_f, moments.T_fg), counts / counts.sum(1, keepdims=True))


def test_single_precision_features_accumulate_in_double():
    x = torch.full((300_000, 1), 0.1) + torch.linspace(0, 1e-3, 300_000)[:, None]
    moments = estimate_moments(lambda s: s + 100, lambda s: s, (x, x), names=CROSS)
    features = (x + 100).double().numpy()
    assert moments.M_f.dtype == np.float64
    assert abs(moments.M_f.item() / np.mean(features**2) - 1) < 1e-12


def test_counts_do_not_lose_pairs():
    """Sums and counts in float32 stop growing at 2^24."""
    sums = {"M_f": np.full((2, 1, 1), 2.0**24 + 1)}
    assert Moments(sums, np.array([2.0**24 + 1, 2.0**24])).n_pairs == 2**25 + 1


def test_arrays_and_tensors_are_features():
    as_arrays = estimate_moments(lambda x: f(x).numpy(), lambda x: g(x).tolist(), PAIRS)
    assert_same(as_arrays, estimate_moments(f, g, PAIRS))


def test_no_gradient_is_recorded():
    weight = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    seen = []

    def watched(x):
        seen.append((x @ weight).requires_grad)
        return x @ weight

    estimate_moments(watched, watched, PAIRS)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("f", "g", "pairs", "message"),
    [
        (f, g, [], "pairs are empty; give at least one pair"),
        (f, g, iter(()), "pairs are empty"),
        (f, g, (torch.zeros(0, 2), torch.zeros(0, 2)), "pairs are empty"),
        (lambda x: x[:, 0], g, PAIRS, r"f must map \d+ states to \(\d+, n_features\); got \(\d+,\)"),
        (f, lambda x: x[:1], PAIRS, r"g must map \d+ states to \(\d+, n_features\); got \(1, 2\)"),
        (lambda x: x / 0, g, PAIRS, "f gave NaN or inf features; check the model or the feature map"),
        (f, lambda x: torch.full((len(x), 2), torch.nan), PAIRS, "g gave NaN or inf features"),
        (f, g, (torch.zeros(4, 2), torch.zeros(3, 2)), r"x and x_next must hold equally many states; got 4 and 3"),
        (f, g, [(torch.zeros(4, 2), torch.zeros(3, 2))], r"x and x_next must hold equally many states; got 4 and 3"),
    ],
)
def test_bad_input(f, g, pairs, message):
    with pytest.raises(ValueError, match=message):
        estimate_moments(f, g, pairs, n_blocks=4)


def test_unknown_and_missing_moments():
    moments = estimate_moments(f, g, PAIRS, names=CROSS)
    with pytest.raises(
        AttributeError, match="these moments hold M_f, M_g, T_fg, phase_f, not T_ff; estimate them with it"
    ):
        _ = moments.T_ff
    with pytest.raises(AttributeError, match="Moments has no attribute 'M_x'"):
        _ = moments.M_x
