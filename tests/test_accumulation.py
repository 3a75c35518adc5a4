import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import PAIRS, SERIES, assert_same, complex_f, f, g, h
from torch.utils.data import DataLoader, TensorDataset

from koopman_lora.accumulation import estimate_moments, flat_state, moments_by_block
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, DEFINITIONS, EDMD, OBSERVABLES
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation

BARE = PAIRS.x, PAIRS.x_next


def explicit(f, g, pairs, h=None):
    """Every moment from its definition in MATH.md, section 2."""
    x, y = pairs.x, pairs.x_next
    parts = {"f0": f(x), "f1": f(y), "g0": g(x), "g1": g(y)} | ({"h0": h(x), "h1": h(y)} if h else {})
    parts = {name: value.numpy().astype(complex) for name, value in parts.items()}
    wanted = {
        "M_f": "f0 f0", "M_g": "g1 g1", "T_fg": "f0 g1", "T_ff": "f0 f1", "M_f1": "f1 f1", "T_gg": "g0 g1",
        "M_g0": "g0 g0", "C_gf": "g1 f1", "C_fg": "f0 g0",
    } | ({"H_f": "f0 h0", "H_g": "g1 h1"} if h else {})  # fmt: skip
    return {
        name: np.mean([np.outer(a.conj(), b) for a, b in zip(*(parts[p] for p in both.split()), strict=True)], axis=0)
        for name, both in wanted.items()
    }


@pytest.mark.parametrize("left", [f, complex_f], ids=["real", "complex"])
def test_every_moment_is_what_its_name_says(left):
    moments = estimate_moments(left, g, PAIRS, observables=h)
    wanted = explicit(left, g, PAIRS, h)
    assert set(moments.names) == set(wanted) == set(DEFINITIONS) - {"A_ff"}
    for name, value in wanted.items():
        assert np.allclose(getattr(moments, name), value, rtol=1e-12), name
    assert moments.n_pairs == len(PAIRS)
    assert np.iscomplexobj(moments.T_fg) == (left is complex_f)


# ---- sources and blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("n_blocks", [1, 5, 64, 1000])
def test_batches_and_blocks_do_not_change_the_moments(batch_size, n_blocks):
    whole = estimate_moments(complex_f, g, PAIRS, n_blocks=1, batch_size=10_000)
    assert_same(estimate_moments(complex_f, g, PAIRS, n_blocks=n_blocks, batch_size=batch_size), whole)


@pytest.mark.parametrize("batch_size", [5, 32, 1000])
def test_every_kind_of_source_agrees(batch_size):
    whole = estimate_moments(f, g, BARE)
    batches = list(zip(PAIRS.x.split(batch_size), PAIRS.x_next.split(batch_size), strict=True))
    sources = {
        "tuple of tensors": BARE,
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
        assert_same(estimate_moments(f, g, source), whole)


def test_pairs_and_a_loader_of_pairs_give_moments_their_clock_and_bare_ones_count_in_lags():
    pairs = lagged_pairs(SERIES, 10, 0.5, "ns")
    loader = DataLoader(pairs, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    whole = estimate_moments(f, g, pairs)
    assert whole.clock == Clock(10, 0.5, "ns")
    assert_same(estimate_moments(f, g, loader), whole)
    assert_same(moments_by_block(f, g, pairs, np.arange(len(pairs)) % 3), whole)
    bare = estimate_moments(f, g, (pairs.x, pairs.x_next))
    batches = DataLoader(TensorDataset(pairs.x, pairs.x_next), batch_size=32)
    assert bare.clock == estimate_moments(f, g, batches).clock == Clock()
    assert (bare.clock.lag, bare.clock.time_unit) == (None, "lag")


def test_blocks_of_memory_and_of_streams():
    assert estimate_moments(f, g, PAIRS, n_blocks=10).n_blocks == pytest.approx(10, abs=3)
    assert estimate_moments(f, g, BARE, n_blocks=10).n_blocks == 10
    assert estimate_moments(f, g, BARE).n_blocks == 64
    batches = list(zip(PAIRS.x.split(3), PAIRS.x_next.split(3), strict=True))
    streamed = estimate_moments(f, g, iter(batches), n_blocks=8)
    assert 8 <= streamed.n_blocks < 16
    assert streamed.n_pairs == len(PAIRS)
    assert streamed.orientation_sums.shape == (streamed.n_blocks, 5)


def test_moments_by_block_has_a_block_for_every_number_in_increasing_order():
    block = np.arange(len(PAIRS)) % 3 * 5 - 5  # -5, 0, 5, interleaved
    moments = moments_by_block(f, g, PAIRS, block)
    assert moments.block_counts.tolist() == [np.sum(block == number) for number in (-5, 0, 5)]
    for i, number in enumerate((-5, 0, 5)):
        direct = estimate_moments(f, g, PAIRS.select(block == number))
        assert_same(moments.selected(np.array([i])), direct)


@pytest.mark.parametrize("shuffle_seed", range(4))
@pytest.mark.parametrize("batch_size", [16, 64])
def test_shuffled_loaders_give_the_same_phases(shuffle_seed, batch_size):
    loader = DataLoader(
        TensorDataset(PAIRS.x, PAIRS.x_next),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(shuffle_seed),
    )
    wanted = koopman_spectrum(estimate_moments(f, g, PAIRS)).phi_coefficients.values
    got = koopman_spectrum(estimate_moments(f, g, loader)).phi_coefficients.values
    assert np.allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
@given(cut=st.integers(1, 127))
def test_two_parts_add_up_to_the_whole(cut):
    whole = estimate_moments(complex_f, g, PAIRS, observables=h)
    parts = [
        estimate_moments(complex_f, g, PAIRS.select(i), observables=h) for i in np.split(np.arange(len(PAIRS)), [cut])
    ]
    assert_same(parts[0] + parts[1], whole)
    assert (parts[0] + parts[1]).n_blocks == parts[0].n_blocks + parts[1].n_blocks


# ---- known answers ---------------------------------------------------------------------------------------------------


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


# ---- only what is asked for ------------------------------------------------------------------------------------------


class Counting:
    """A feature map that counts how often it is called, and at how many states."""

    def __init__(self, feature_map):
        self.feature_map, self.n_states = feature_map, 0

    def __call__(self, x):
        self.n_states += len(x)
        return self.feature_map(x)


@pytest.mark.parametrize(
    ("names", "passes"),
    [(None, (2, 2)), (CROSS, (1, 1)), (EDMD, (2, 0)), (("M_g",), (0, 1)), (("T_gg", "C_gf"), (1, 2))],
    ids=str,
)
def test_names_estimate_only_what_is_asked_for(names, passes):
    left, right = Counting(complex_f), Counting(g)
    moments = estimate_moments(left, right, PAIRS, names=names)
    assert (left.n_states, right.n_states) == (passes[0] * len(PAIRS), passes[1] * len(PAIRS))
    assert set(moments.names) == set(names or DEFINITIONS) - {"A_ff", *OBSERVABLES}
    whole = estimate_moments(complex_f, g, PAIRS)
    for name in moments.names:
        assert np.allclose(getattr(moments, name), getattr(whole, name), rtol=1e-12, atol=1e-14), name


def test_observables_come_beside_the_names():
    moments = estimate_moments(f, g, PAIRS, names=CROSS, observables=h)
    assert set(moments.names) == {*CROSS, *OBSERVABLES}


@pytest.mark.parametrize("names", [["M_f", "M_h"], ["T"], []])
def test_unknown_names_are_refused(names):
    with pytest.raises(ValueError, match=r"names must be among M_f, M_g, T_fg, .*; got \["):
        estimate_moments(f, g, PAIRS, names=names)


def test_a_thousand_observables_cost_no_product_with_one_another():
    n_observables, n_blocks, k = 1000, 4, 3
    x = torch.randn(41, n_observables, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = lagged_pairs(x)
    tracemalloc.start()
    moments = estimate_moments(
        lambda s: s[:, :k], lambda s: s[:, :k], pairs, observables=flat_state, n_blocks=n_blocks, batch_size=10
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(moments.block_sums.values(), key=np.size).shape == (n_blocks, 1 + k, 1 + n_observables)
    assert peak < n_observables**2 * 8 / 2  # bytes of half a (1000, 1000)
    assert np.allclose(moments.H_f, x[:-1, :k].T @ x[:-1] / 40)


def test_names_of_observables_come_from_the_coordinates_or_the_user():
    pairs = lagged_pairs(NoisyRotation().simulate(1, 50, seed=0))
    assert len(pairs.coordinate_names) == 2
    assert estimate_moments(f, g, pairs, observables=flat_state).observable_names == pairs.coordinate_names
    block = np.arange(len(pairs)) % 2
    assert moments_by_block(f, g, pairs, block, observables=flat_state).observable_names == pairs.coordinate_names
    named = estimate_moments(f, g, pairs, observables=flat_state, observable_names=["p", "q"])
    assert named.observable_names == ("p", "q")
    assert estimate_moments(f, g, pairs, observables=h).observable_names is None  # squares are no coordinates
    assert estimate_moments(f, g, pairs).observable_names is None


def test_names_of_observables_are_as_many_as_observables():
    named = estimate_moments(f, g, PAIRS, observables=h, observable_names=np.array(["x", "y"]))
    assert named.observable_names == ("x", "y")
    assert all(type(name) is str for name in named.observable_names)
    for source in (PAIRS, BARE, [BARE]):
        with pytest.raises(ValueError, match=r"observable_names must name 2 observables; got 3: \['a', 'b', 'c'\]"):
            estimate_moments(f, g, source, observables=h, observable_names=["a", "b", "c"])


# ---- errors ----------------------------------------------------------------------------------------------------------


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
