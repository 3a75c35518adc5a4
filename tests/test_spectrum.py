import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from koopman_lora.accumulation import estimate_moments
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.spectrum import (
    compute_koopman_spectrum,
    evaluate_functions,
    koopman_spectrum,
    model_spectrum,
    scaled_by,
)
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, NoisyRotation

RNG = np.random.default_rng(0)
SYSTEM = LinearGaussian(A=[[0.9, 0.2], [-0.2, 0.7]], B=np.diag([0.5, 0.4]))
PAIRS = lagged_pairs(SYSTEM.simulate(n_trajectories=4, n_steps=1500, seed=3))


def polynomials(x, degree=2):
    """All monomials of two coordinates up to a degree, the constant included."""
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return torch.stack([x[:, 0] ** i * x[:, 1] ** j for i, j in powers], dim=1)


def waves(x):
    return torch.exp(1j * (x @ torch.tensor([[1.0, 0.5, 0.3, 0.0], [0.0, 0.5, -1.0, 0.0]], dtype=x.dtype)))


def exact_moments(exact_pairs, n_modes=None):
    reference = exact_pairs.reference
    parts = {
        ("f", 0): exact_pairs.rows(reference.left), ("f", 1): exact_pairs.rows(reference.left, "x_next"),
        ("g", 0): exact_pairs.rows(reference.right), ("g", 1): exact_pairs.rows(reference.right, "x_next"),
    }  # fmt: skip
    parts = {name: values[:, :n_modes] for name, values in parts.items()}
    definitions = {
        "M_f": ("f0", "f0"), "M_g": ("g1", "g1"), "T_fg": ("f0", "g1"), "T_ff": ("f0", "f1"), "C_gf": ("g1", "f1"),
    }  # fmt: skip
    sums = {name: (parts[a[0], int(a[1])].T @ parts[b[0], int(b[1])])[None] for name, (a, b) in definitions.items()}
    return Moments(sums, np.array([float(len(exact_pairs.weights))]))


# ---- at the exact singular functions ---------------------------------------------------------------------------------


def test_learned_k_matrix_and_canonical_values_agree_at_the_exact_functions(exact_pairs):
    sigma = exact_pairs.reference.singular_values
    spectrum = koopman_spectrum(exact_moments(exact_pairs), svals=sigma)
    for name in ("svals", "singular_values", "canonical_singular_values"):
        assert np.allclose(spectrum[name], sigma, rtol=0, atol=1e-10), name
    assert np.allclose(spectrum.K_matrix, np.diag(sigma), atol=1e-10)
    assert np.allclose(spectrum.M_f, np.diag(sigma), atol=1e-10)
    assert np.allclose(spectrum.T_fg, np.diag(sigma**2), atol=1e-10)
    assert not spectrum.attrs["sigma_above_one"]


def test_scaling_twice_would_show(exact_pairs):
    """K_matrix of unscaled features is diag(sigma) as well, but their moments are not those of scaled ones."""
    sigma = exact_pairs.reference.singular_values
    spectrum = koopman_spectrum(exact_moments(exact_pairs))
    assert "svals" not in spectrum
    assert np.allclose(spectrum.M_f, np.eye(len(sigma)), atol=1e-10)
    assert np.allclose(spectrum.canonical_singular_values, sigma, atol=1e-10)


def test_eigenvalues_are_exact_where_the_functions_span_an_invariant_space(exact_pairs):
    reference = exact_pairs.reference
    spectrum = koopman_spectrum(exact_moments(exact_pairs))
    if reference.resolution.startswith("closed form; points"):
        return _check_gaussian(spectrum, reference)
    wanted = reference.eigenvalues
    assert np.allclose(spectrum.eigenvalues[: len(wanted)], wanted, atol=1e-7)
    assert np.allclose(spectrum.edmd_eigenvalues[: len(wanted)], wanted, atol=1e-7)
    return None


def _check_gaussian(spectrum, reference):
    # the first five or more singular functions hold all linear functions, which are invariant
    for value in reference.eigenvalues[:3]:
        assert np.abs(spectrum.eigenvalues.values - value).min() < 1e-9


# ---- canonical values ------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), is_complex=st.booleans(), stretch=st.floats(0, 6))
def test_canonical_values_and_functions_do_not_depend_on_the_basis(seed, is_complex, stretch):
    rng = np.random.default_rng(seed)
    features = waves if is_complex else polynomials
    k = 4 if is_complex else 6
    A, B = (np.linalg.qr(rng.normal(size=(k, k)))[0] for _ in "fg")
    A, B = A * np.logspace(0, stretch, k), B * np.logspace(0, -stretch, k)
    if is_complex:
        A = A * np.exp(1j * rng.uniform(0, 6, k))
    moments = MOMENTS[is_complex]
    first, second = koopman_spectrum(moments), koopman_spectrum(moments.transformed(A, B))
    assert np.allclose(first.canonical_singular_values, second.canonical_singular_values, atol=1e-8)
    assert first.canonical_singular_values.max() <= 1 + 1e-9
    assert first.canonical_singular_values.min() >= 0
    values = features(PAIRS.x[:50]).numpy(), features(PAIRS.x_next[:50]).numpy()
    for side, name, change in ((0, "phi_coefficients", A), (1, "psi_coefficients", B)):
        before = evaluate_functions(values[side], first[name])
        after = evaluate_functions(values[side] @ change, second[name])
        assert np.allclose(before, after, atol=1e-4), name  # same functions, same phases


MOMENTS = {
    False: estimate_moments(polynomials, polynomials, PAIRS),
    True: estimate_moments(waves, waves, PAIRS),
}


@pytest.mark.parametrize("features", [polynomials, waves], ids=["real", "complex"])
def test_singular_functions_are_orthonormal_on_the_data(features):
    spectrum = koopman_spectrum(estimate_moments(features, features, PAIRS))
    phi = evaluate_functions(features(PAIRS.x), spectrum.phi_coefficients)
    psi = evaluate_functions(features(PAIRS.x_next), spectrum.psi_coefficients)
    n, k = phi.shape
    assert np.allclose(phi.conj().T @ phi / n, np.eye(k), atol=1e-9)
    assert np.allclose(psi.conj().T @ psi / n, np.eye(k), atol=1e-9)
    assert np.allclose(phi.conj().T @ psi / n, np.diag(spectrum.canonical_singular_values), atol=1e-9)


def test_constant_function_is_the_first_triple():
    spectrum = koopman_spectrum(MOMENTS[False])
    assert np.isclose(spectrum.canonical_singular_values[0], 1, atol=1e-12)
    phi = evaluate_functions(polynomials(PAIRS.x), spectrum.phi_coefficients)
    psi = evaluate_functions(polynomials(PAIRS.x_next), spectrum.psi_coefficients)
    assert np.allclose(phi[:, 0], 1, atol=1e-8)
    assert np.allclose(psi[:, 0], 1, atol=1e-8)


def test_phases_do_not_flip_between_samples_of_the_same_system():
    spectra = [
        koopman_spectrum(estimate_moments(polynomials, polynomials, lagged_pairs(SYSTEM.simulate(4, 4000, seed=seed))))
        for seed in range(4)
    ]
    functions = [evaluate_functions(polynomials(PAIRS.x), s.phi_coefficients)[:, :3] for s in spectra]
    for other in functions[1:]:
        overlap = np.sum(functions[0] * other, axis=0) / len(other)
        assert (overlap > 0.9).all()


def test_complex_features_find_what_real_ones_find():
    """exp(+-i m angle) and cos, sin span one space over the complex numbers."""
    rotation = NoisyRotation(omega=0.7, noise=0.4)
    pairs = lagged_pairs(rotation.simulate(2, 3000, seed=1))

    def circle(x):
        z = torch.complex(x[:, 0], x[:, 1])
        return torch.stack([z**m for m in (0, 1, -1, 2, -2)], dim=1)

    def real(x):
        z = circle(x)
        return torch.stack([z[:, 0].real, z[:, 1].real, z[:, 1].imag, z[:, 3].real, z[:, 3].imag], dim=1)

    one, two = (koopman_spectrum(estimate_moments(m, m, pairs)) for m in (circle, real))
    assert np.iscomplexobj(one.K_matrix)
    assert np.allclose(one.canonical_singular_values, two.canonical_singular_values, atol=1e-9)
    assert np.allclose(one.eigenvalues, two.eigenvalues, atol=1e-9)
    assert np.allclose(one.canonical_singular_values, rotation.spectrum(1, 5).singular_values, atol=0.05)


def test_rank_deficient_features_lose_nothing_and_invent_nothing():
    def doubled(x):
        p = polynomials(x)
        return torch.cat([p, p[:, 1:4] @ torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], dtype=p.dtype)], dim=1)

    plain, deficient = MOMENTS[False], estimate_moments(doubled, doubled, PAIRS)
    first, second = koopman_spectrum(plain), koopman_spectrum(deficient)
    assert (second.attrs["rank_f"], second.attrs["rank_g"]) == (6, 6)
    assert np.allclose(second.canonical_singular_values[:6], first.canonical_singular_values, atol=1e-8)
    assert np.allclose(second.canonical_singular_values[6:], 0, atol=1e-12)
    assert np.allclose(np.sort(np.abs(second.eigenvalues[:6])), np.sort(np.abs(first.eigenvalues)), atol=1e-7)
    assert all(np.isfinite(second[name]).all() for name in ("K_matrix", "U", "Vh", "phi_coefficients", "eigenvalues"))


def test_sigma_above_one_is_an_alarm_not_clipped():
    moments = Moments({"M_f": np.eye(2)[None], "M_g": np.eye(2)[None], "T_fg": np.diag([1.1, 0.5])[None]}, np.ones(1))
    spectrum = koopman_spectrum(moments)
    assert spectrum.canonical_singular_values.values.tolist() == pytest.approx([1.1, 0.5])
    assert spectrum.attrs["sigma_above_one"]


def test_small_svals_are_not_cut_off():
    svals = np.array([1.0, 1e-3, 1e-9, 0.5, 1e-12, 0.1])
    spectrum = koopman_spectrum(MOMENTS[False], svals)
    assert np.allclose(spectrum.canonical_singular_values, koopman_spectrum(MOMENTS[False]).canonical_singular_values)
    D = np.diag(np.sqrt(svals))
    unscaled = MOMENTS[False]
    wanted = np.linalg.inv(D) @ np.linalg.inv(unscaled.M_f) @ unscaled.T_fg @ D
    assert np.allclose(spectrum.K_matrix, wanted, rtol=1e-6)


@pytest.mark.parametrize("svals", [np.ones(5), np.ones((6, 1)), 0.5])
def test_svals_of_another_length(svals):
    with pytest.raises(ValueError, match=r"svals must have shape \(6,\), one per feature; got"):
        koopman_spectrum(MOMENTS[False], svals)


def test_k_matrix_is_the_least_squares_solution():
    spectrum = koopman_spectrum(MOMENTS[False])
    F, G = polynomials(PAIRS.x).numpy(), polynomials(PAIRS.x_next).numpy()
    assert np.allclose(spectrum.K_matrix, np.linalg.lstsq(F, G, rcond=None)[0], atol=1e-8)
    U, S, Vh = (spectrum[name].values for name in ("U", "singular_values", "Vh"))
    assert np.allclose(U * S @ Vh, spectrum.K_matrix, atol=1e-12)
    assert np.allclose(U.T @ U, np.eye(6), atol=1e-12)


def test_different_maps_for_f_and_g():
    left, right = lambda x: polynomials(x, 2), lambda x: polynomials(x, 3)
    spectrum = koopman_spectrum(estimate_moments(left, right, PAIRS))
    phi = evaluate_functions(left(PAIRS.x), spectrum.phi_coefficients)
    psi = evaluate_functions(right(PAIRS.x_next), spectrum.psi_coefficients)
    assert np.allclose(phi.T @ psi / len(phi), np.diag(spectrum.canonical_singular_values), atol=1e-9)
    small = koopman_spectrum(MOMENTS[False]).canonical_singular_values
    assert (spectrum.canonical_singular_values >= small - 1e-10).all()  # a wider g catches no less


# ---- eigenvalues -----------------------------------------------------------------------------------------------------


def test_edmd_of_a_polynomial_dictionary_finds_the_eigenvalues():
    pairs = lagged_pairs(SYSTEM.simulate(n_trajectories=10, n_steps=10_000, seed=5), lag=2)
    spectrum = koopman_spectrum(estimate_moments(polynomials, polynomials, pairs))
    exact = SYSTEM.spectrum(lag=2, n_modes=6)
    for name in ("eigenvalues", "edmd_eigenvalues"):
        for value in exact.eigenvalues:
            assert np.abs(spectrum[name].values - value).min() < 0.02, (name, value)
    assert np.allclose(spectrum.canonical_singular_values[:3], exact.singular_values[:3], atol=0.02)


def test_eigenfunctions_satisfy_their_equation():
    spectrum = koopman_spectrum(MOMENTS[False])
    v, values = spectrum.right_eigenfunction_coefficients.values, spectrum.eigenvalues.values
    edmd = np.linalg.inv(MOMENTS[False].M_f) @ MOMENTS[False].T_ff
    # with f = g of one span, the rank-n operator is the EDMD operator
    assert np.allclose(edmd @ v, v * values, atol=1e-8)
    values_on_data = polynomials(PAIRS.x).numpy() @ v
    assert np.allclose(np.mean(np.abs(values_on_data) ** 2, axis=0), 1, atol=1e-8)


def test_timescales_and_frequencies_have_the_physical_unit():
    spectrum = koopman_spectrum(dataclasses.replace(MOMENTS[False], clock=Clock(3, 0.5, "ps")))
    eigenvalues = spectrum.eigenvalues.values
    assert np.allclose(spectrum.timescales[1:], -1.5 / np.log(np.abs(eigenvalues[1:])))
    assert np.isinf(spectrum.timescales[0])
    assert np.allclose(spectrum.frequencies, np.angle(eigenvalues) / (2 * np.pi * 1.5))
    assert (spectrum.timescales.attrs["units"], spectrum.frequencies.attrs["units"]) == ("ps", "1/ps")
    assert (spectrum.attrs["lag"], spectrum.attrs["dt"], spectrum.attrs["time_unit"]) == (3, 0.5, "ps")
    assert spectrum.attrs["n_pairs"] == len(PAIRS)


@given(
    timescale=st.floats(1e-2, 1e4), frequency=st.floats(-0.49, 0.49), lag_time=st.floats(1e-2, 10), growth=st.booleans()
)
def test_timescales_and_frequencies_invert_the_exponential(timescale, frequency, lag_time, growth):
    decay = lag_time / timescale
    if decay > 600 or decay < 1e-5:
        return
    value = np.exp((decay if growth and decay < 600 else -decay) + 2j * np.pi * frequency)
    clock = Clock(1, lag_time)
    assert np.isclose(clock.frequencies([value])[0], frequency / lag_time, atol=1e-9 / lag_time)
    result = clock.timescales([value])[0]
    assert np.isnan(result) if growth else np.isclose(result, timescale, rtol=1e-6)


@pytest.mark.parametrize("which", ["real", "complex", "f and g of different sizes", "rotation"])
def test_koopman_spectrum_and_eigen_analysis_tell_the_same(noisy, which):
    """Of one operator: the same eigenvalues in the same order, conditions, eigenfunctions and times."""
    moments = {
        "real": MOMENTS[False],
        "complex": MOMENTS[True],
        "f and g of different sizes": estimate_moments(polynomials, lambda x: polynomials(x, 3), PAIRS),
        "rotation": noisy[0],
    }[which]
    moments = dataclasses.replace(moments, clock=Clock(2, 0.5, "ps"))
    spectrum, pairs = koopman_spectrum(moments), eigen_analysis(moments)
    assert len(spectrum.mode) == len(pairs.mode) == len(moments.M_f)
    assert np.allclose(spectrum.eigenvalues, pairs.eigenvalues, rtol=0, atol=1e-10)
    assert np.allclose(spectrum.eigenvalue_condition, pairs.eigenvalue_condition, rtol=1e-6)
    assert (spectrum.eigenvalue_condition > 1 - 1e-9).all()
    one, two = (s.right_eigenfunction_coefficients.values for s in (spectrum, pairs))
    assert np.allclose(one, two, rtol=0, atol=1e-6 * np.abs(one).max())
    assert np.allclose(spectrum.timescales[1:], pairs.timescales[1:], rtol=1e-6)
    assert np.allclose(spectrum.frequencies, pairs.frequencies, atol=1e-9)
    for name in ("timescales", "frequencies"):
        assert spectrum[name].attrs["units"] == pairs[name].attrs["units"]


def test_eigen_analysis_drops_what_is_no_function_and_koopman_spectrum_keeps_it_as_zeros():
    moments = estimate_moments(*(lambda x: polynomials(x)[:, [0, 1, 2, 1, 3, 4, 5]] for _ in "fg"), PAIRS)
    spectrum, pairs = koopman_spectrum(moments), eigen_analysis(moments)
    assert (len(spectrum.mode), len(pairs.mode)) == (7, 6)
    assert np.allclose(spectrum.eigenvalues[:6], pairs.eigenvalues, atol=1e-8)
    assert np.allclose(spectrum.eigenvalue_condition[:6], pairs.eigenvalue_condition, rtol=1e-5)
    assert spectrum.eigenvalues[6] == 0
    assert np.isinf(spectrum.eigenvalue_condition[6])


def test_edmd_eigenvalues_are_those_of_edmd_analysis_in_a_dimension_of_their_own():
    spectrum = koopman_spectrum(estimate_moments(polynomials, lambda x: polynomials(x, 1), PAIRS))
    assert spectrum.edmd_eigenvalues.dims == ("edmd_mode",)
    assert spectrum.sizes["edmd_mode"] == 6  # one for every feature f
    assert spectrum.sizes["mode"] == 3  # the smaller of the two sides
    assert np.allclose(spectrum.edmd_eigenvalues, eigen_analysis(MOMENTS[False], "edmd").eigenvalues, atol=1e-10)


def test_the_condition_of_an_eigenvalue_is_that_of_its_functions_in_L2():
    """|l| |r| / |<l, r>| of the chain in the stationary law, whatever the features that span it."""
    P = np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10
    pi = FiniteMarkovChain(P).stationary_distribution
    L2 = np.sqrt(pi)[:, None] * P / np.sqrt(pi)  # the operator between orthonormal functions
    values, left, right = scipy.linalg.eig(L2, left=True, right=True)
    wanted = 1 / np.abs(np.sum(left.conj() * right, axis=0))
    D = np.diag(pi)
    sums = {"M_f": D, "M_g": D, "T_fg": pi[:, None] * P, "T_ff": pi[:, None] * P, "C_gf": D}
    moments = Moments({name: value[None] for name, value in sums.items()}, np.ones(1))
    A, B = np.random.default_rng(0).normal(size=(2, 4, 4))
    for some in (moments, moments.transformed(A * [1e3, 1, 1, 1e-3], B)):
        found = koopman_spectrum(some)
        for value, condition in zip(found.eigenvalues.values, found.eigenvalue_condition.values, strict=True):
            assert np.isclose(condition, wanted[np.abs(values - value).argmin()], rtol=1e-6)


def test_an_eigenvalue_of_exactly_zero_has_no_left_eigenfunction_so_an_infinite_condition():
    """All that x tells is forgotten, but for the constant: K = diag(1, 0)."""
    eye = np.eye(2)[None]
    moments = Moments(
        {"M_f": eye, "M_g": eye, "T_fg": np.diag([1.0, 0.0])[None], "T_ff": np.diag([1.0, 0.0])[None], "C_gf": eye},
        np.ones(1),
    )
    found = koopman_spectrum(moments)
    assert np.allclose(found.eigenvalues, [1, 0])
    assert found.eigenvalue_condition.values.tolist() == [1, np.inf]


def test_no_eigenvalues_without_their_moments():
    spectrum = koopman_spectrum(estimate_moments(polynomials, polynomials, PAIRS, names=CROSS))
    assert not {"eigenvalues", "timescales", "edmd_eigenvalues"} & set(spectrum)
    assert np.allclose(spectrum.canonical_singular_values, koopman_spectrum(MOMENTS[False]).canonical_singular_values)


# ---- users' own loops ------------------------------------------------------------------------------------------------


def trained_model(x, x_next, seed=0, n_epochs=15, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KoopmanLoRAModel(2, 4, hidden_dims=(32,), **options)
        loader = DataLoader(TensorDataset(x, x_next), batch_size=256, shuffle=True)
        loss_fn = NestedLoRALoss(n_modes=4, nesting="jnt", reg_weight=0.1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(n_epochs):
            for x_batch, x_next_batch in loader:
                f, g = model(x_batch, x_next_batch)
                loss = loss_fn(f, g, model.svals)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


X, X_NEXT = PAIRS.x.float(), PAIRS.x_next.float()


@pytest.mark.parametrize(
    "options",
    [
        {"learn_svals": True},
        {"shared_encoder": True, "learn_svals": True},
        {"activation": "ELU", "use_batchnorm": True},
        {"learn_svals": True, "has_centering": True},
        {"has_centering": True},
    ],
    ids=str,
)
def test_spectrum_of_a_users_own_loop(options):
    model = trained_model(X, X_NEXT, n_epochs=3, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = DataLoader(TensorDataset(X, X_NEXT), batch_size=500)
    spectrum = compute_koopman_spectrum(model, loader, torch.device("cpu"))
    assert model.training  # the model itself is not changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert np.allclose(np.linalg.svd(spectrum["K_matrix"])[1], spectrum["singular_values"], rtol=1e-9)
    assert ("svals" in spectrum) == bool(options.get("learn_svals"))
    assert 0 < spectrum.canonical_singular_values.max() <= 1 + 1e-9
    if options.get("has_centering"):
        assert np.isclose(spectrum.canonical_singular_values[0], 1)
    # the same numbers by hand
    frozen = KoopmanLoRAModel(2, 4, hidden_dims=(32,), **options)
    frozen.load_state_dict(before)
    frozen.eval().calibrate(X, X_NEXT)
    by_hand = model_spectrum(frozen, estimate_moments(frozen.f, frozen.g, (X, X_NEXT)))
    for name in ("K_matrix", "canonical_singular_values", "eigenvalues"):
        assert np.allclose(spectrum[name], by_hand[name], atol=1e-5), name


@pytest.mark.slow
def test_trained_svals_approach_the_truth():
    model = trained_model(X, X_NEXT, learn_svals=True, has_centering=True)
    exact = SYSTEM.spectrum(1, 4).singular_values
    spectrum = compute_koopman_spectrum(model, [(X, X_NEXT)])
    assert np.allclose(spectrum.canonical_singular_values, exact, atol=0.06)
    assert np.allclose(spectrum.svals, exact, atol=0.12)


@pytest.mark.parametrize("source", ["loader", "list", "generator", "tuple"])
def test_any_source_of_pairs_will_do(source):
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True).double()
    batches = list(zip(PAIRS.x.split(1000), PAIRS.x_next.split(1000), strict=True))
    sources = {
        "loader": DataLoader(TensorDataset(PAIRS.x, PAIRS.x_next), batch_size=1000),
        "list": batches,
        "generator": (b for b in batches),
        "tuple": (PAIRS.x, PAIRS.x_next),
    }
    wanted = compute_koopman_spectrum(model, batches)
    got = compute_koopman_spectrum(model, sources[source])
    assert np.allclose(got.K_matrix, wanted.K_matrix, atol=1e-10)


def test_scaling_by_svals_is_scaling_the_features():
    svals = np.array([1.0, 0.5, 0.4, 0.3, 0.2, 0.1])
    scaled = estimate_moments(*(lambda x: polynomials(x).numpy() * np.sqrt(svals) for _ in "fg"), PAIRS)
    for name in scaled.names:
        assert np.allclose(getattr(scaled_by(MOMENTS[False], svals), name), getattr(scaled, name), rtol=1e-12)
    assert scaled_by(MOMENTS[False], None) is MOMENTS[False]


def test_matrices_have_a_name_for_every_side():
    spectrum = koopman_spectrum(estimate_moments(polynomials, lambda x: polynomials(x, 3), PAIRS))
    wanted = {
        "K_matrix": ("feature_f", "feature_g"), "T_fg": ("feature_f", "feature_g"),
        "M_f": ("feature_f", "feature_f_column"), "M_g": ("feature_g", "feature_g_column"),
        "phi_coefficients": ("feature_f", "mode"), "psi_coefficients": ("feature_g", "mode"),
        "right_eigenfunction_coefficients": ("feature_f", "mode"),
    }  # fmt: skip
    for name, dims in wanted.items():
        assert spectrum[name].dims == dims, name
    for name, size in spectrum.sizes.items():
        assert spectrum[name].values.tolist() == list(range(1, size + 1)), name
    assert (spectrum.sizes["feature_f"], spectrum.sizes["feature_g"]) == (6, 10)


@pytest.mark.slow
def test_the_clock_comes_from_the_pairs_or_the_model_and_two_clocks_are_refused():
    clock = Clock(4, 0.25, "ns")
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    pairs = lagged_pairs((X, X_NEXT), 4, 0.25, "ns")
    for known, source in ((Clock(), pairs), (clock, pairs), (clock, TensorDataset(X, X_NEXT))):
        model.clock = known
        found = compute_koopman_spectrum(model, DataLoader(source, batch_size=1000))
        assert Clock.from_attrs(found.attrs) == clock
    model.clock = Clock(5, 0.25, "ns")
    with pytest.raises(ValueError, match="clocks must be one and the same to add or compare"):
        compute_koopman_spectrum(model, DataLoader(pairs, batch_size=1000))


def test_pairs_of_unknown_lag_count_in_lags():
    spectrum = compute_koopman_spectrum(KoopmanLoRAModel(2, 3, hidden_dims=(8,)), [(X, X_NEXT)])
    assert (spectrum.attrs["lag"], spectrum.attrs["dt"], spectrum.attrs["time_unit"]) == ("unknown", 1, "lag")
    assert np.allclose(spectrum.timescales[1:], -1 / np.log(np.abs(spectrum.eigenvalues[1:])))
    assert spectrum.timescales.attrs["units"] == "lag"


def test_units_of_the_model_reach_its_spectrum():
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    model.clock = Clock(4, 0.25, "ns")
    spectrum = compute_koopman_spectrum(model, [(X, X_NEXT)])
    assert (spectrum.attrs["lag"], spectrum.attrs["dt"], spectrum.timescales.attrs["units"]) == (4, 0.25, "ns")
    assert np.allclose(spectrum.timescales[1:], -1 / np.log(np.abs(spectrum.eigenvalues[1:])))
