import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import beta, roots_hermitenorm, roots_legendre

from koopman_lora import systems as sys
from koopman_lora._linalg import eigenvalue_order
from koopman_lora.accumulation import estimate_moments
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems.linear_gaussian import leading_products

EXACT = json.loads((Path(__file__).parent / "data" / "exact_spectra.json").read_text())

SPIRAL = sys.LinearGaussian(A=[[0.7, -0.4, 0.0], [0.4, 0.7, 0.0], [0.2, 0.0, 0.5]], B=np.diag([1.0, 0.3, 0.5]))
STOCHASTIC = {
    "logistic": sys.NoisyLogisticMap(),
    "rotation": sys.NoisyRotation(omega=0.7, noise=0.4),
    "gaussian": sys.LinearGaussian(A=[[0.9, 0.4], [0.0, 0.5]], B=np.eye(2)),
    "gaussian spiral": SPIRAL,
    "ornstein-uhlenbeck": sys.OrnsteinUhlenbeck(drift=[[1.0, 2.0], [-2.0, 1.0]], diffusion=np.diag([1.0, 0.5]), dt=0.2),
    "chain": sys.FiniteMarkovChain.with_blocks(),
    "four wells 1d": sys.FourWellLangevin1D(),
    "four wells 2d": sys.FourWellLandscape2D(),
    "mueller-brown": sys.MuellerBrown(),
}
ON_A_GRID = ["four wells 1d", "four wells 2d", "mueller-brown"]
DETERMINISTIC = {"lorenz": sys.Lorenz63(), "duffing": sys.Duffing()}
EVERY = STOCHASTIC | DETERMINISTIC

stochastic = pytest.mark.parametrize("name", STOCHASTIC)
every = pytest.mark.parametrize("name", EVERY)


def transition_points(name, x, lag):
    """Quadrature of the law of x' given one state x, from the definition of the process: points (n, d), weights."""
    system = STOCHASTIC[name]
    nodes, weights = roots_hermitenorm(40)
    weights = weights / weights.sum()
    if name == "logistic":
        nodes, weights = roots_legendre(400)
        y, C, N = (nodes + 1) / 2, np.pi / beta(system.order / 2 + 0.5, 0.5), system.order
        density = C * np.cos(np.pi * (y - 4 * x * (1 - x))) ** N
        for _ in range(lag - 1):
            kernel = C * np.cos(np.pi * (y[None, :] - 4 * (y * (1 - y))[:, None])) ** N
            density = (density * weights / 2) @ kernel
        return y[:, None], density * weights / 2
    if name == "rotation":
        angle = np.arctan2(x[1], x[0]) + lag * system.omega + system.noise * np.sqrt(lag) * nodes
        return np.stack([np.cos(angle), np.sin(angle)], axis=1), weights
    if name == "chain":
        return system.embedded_states, x @ np.linalg.matrix_power(system.transition_matrix, lag)
    chain = system.discretised if name == "ornstein-uhlenbeck" else system
    d = len(chain.A)
    noise = np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), axis=-1).reshape(-1, d)
    mean, covariance = x, np.zeros((d, d))
    for _ in range(lag):
        mean, covariance = chain.A @ mean, chain.A @ covariance @ chain.A.T + chain.B @ chain.B.T
    weights = np.prod(np.stack(np.meshgrid(*[weights] * d, indexing="ij"), axis=-1).reshape(-1, d), axis=1)
    return mean + noise @ np.linalg.cholesky(covariance).T, weights


# Known answers


def test_logistic_map_reproduces_the_stored_values():
    stored, spectrum = EXACT["noisy_logistic_map"], STOCHASTIC["logistic"].spectrum(lag=1, n_modes=21)
    np.testing.assert_allclose(spectrum.singular_values[:15], stored["singular_values"], atol=1e-9)
    np.testing.assert_allclose((spectrum.singular_values**2).sum(), stored["sum_of_squares_all"], atol=1e-9)
    eigenvalues = np.array(stored["eigenvalues_re_im"]) @ [1, 1j]
    np.testing.assert_allclose(spectrum.eigenvalues[:8], eigenvalues, atol=1e-9)
    density = stored["stationary_density_at"]
    ours = STOCHASTIC["logistic"].stationary_density(np.array([float(x) for x in density]))
    np.testing.assert_allclose(ours, list(density.values()), atol=1e-6)


def test_four_wells_1d_reproduce_the_stored_rates():
    stored = -np.array(EXACT["overdamped_langevin_four_wells_1d"]["generator_eigenvalues"])
    rates = -np.log(sys.FourWellLangevin1D(dt=0.05).spectrum(n_modes=10).singular_values) / 0.05
    np.testing.assert_allclose(rates[1:], stored[1:], rtol=1e-3)
    assert rates[0] == 0


def test_noisy_rotation_follows_the_formula():
    system = sys.NoisyRotation(omega=0.3, noise=0.5)
    spectrum, k = system.spectrum(lag=2, n_modes=5), np.array([0, 1, -1, 2, -2])
    np.testing.assert_allclose(spectrum.eigenvalues, np.exp(2 * (1j * k * 0.3 - k**2 * 0.5**2 / 2)), atol=1e-15)
    np.testing.assert_allclose(spectrum.singular_values, np.abs(spectrum.eigenvalues), atol=1e-15)


def test_linear_gaussian_reproduces_the_stored_example():
    example = EXACT["linear_gaussian"]["example"]
    spectrum = sys.LinearGaussian(example["A"], example["B"]).spectrum(lag=1, n_modes=8)
    np.testing.assert_allclose(spectrum.singular_values, example["singular_values"], atol=1e-12)
    np.testing.assert_allclose(spectrum.eigenvalues, example["eigenvalues"], atol=1e-12)


def test_ornstein_uhlenbeck_in_one_dimension():
    system = sys.OrnsteinUhlenbeck(drift=[[2.0]], diffusion=[[3.0]], dt=0.1)
    np.testing.assert_allclose(system.spectrum(lag=3, n_modes=5).singular_values, np.exp(-0.6 * np.arange(5)))
    np.testing.assert_allclose(system.discretised.covariance, [[9 / 4]])


def test_underdamped_noise_reaches_the_position_through_the_velocity():
    oscillator = sys.OrnsteinUhlenbeck(drift=[[0.0, -1.0], [1.0, 0.5]], diffusion=[[0.0], [1.0]], dt=0.5)
    np.testing.assert_allclose(oscillator.discretised.covariance, np.eye(2), atol=1e-12)
    eigenvalue = oscillator.spectrum(n_modes=2).eigenvalues[1]
    np.testing.assert_allclose(eigenvalue, np.exp(-0.5 * (0.25 - 1j * np.sqrt(1 - 0.25**2))), rtol=1e-9)


def test_two_state_chain():
    spectrum = sys.FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).spectrum(lag=2, n_modes=2)
    np.testing.assert_allclose(spectrum.singular_values, [1, 0.36])
    np.testing.assert_allclose(spectrum.eigenvalues, [1, 0.36])


def test_cyclic_chain_has_all_singular_values_one_and_roots_of_unity():
    spectrum = sys.FiniteMarkovChain(np.roll(np.eye(4), 1, axis=1)).spectrum(n_modes=4)
    np.testing.assert_allclose(spectrum.singular_values, 1)
    np.testing.assert_allclose(spectrum.eigenvalues, [1, 1j, -1j, -1], atol=1e-12)
    np.testing.assert_allclose(spectrum.left(spectrum.points)[:, 0], 1)
    assert np.isinf(spectrum.to_dataset().timescales).all()


def test_blocks_are_metastable():
    chain = sys.FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.02)
    slow = chain.spectrum(n_modes=4).singular_values
    assert (slow[1:3] > 0.95).all()
    assert slow[3] < 0.5
    psi = chain.spectrum(n_modes=3).right(chain.embedded_states)
    for label in range(3):  # slow functions are nearly constant on each block
        assert psi[chain.blocks == label].std(axis=0).max() < 0.1 * psi[:, 1:].std()
    assert sys.FiniteMarkovChain.with_blocks(n_blocks=1, states_per_block=2).blocks.tolist() == [0, 0]


@pytest.mark.parametrize("embedding", ["one-hot", "index", np.random.default_rng(0).normal(size=(12, 3))])
def test_embeddings_map_back_to_states(embedding):
    chain = sys.FiniteMarkovChain(STOCHASTIC["chain"].transition_matrix, embedding=embedding)
    np.testing.assert_array_equal(chain.state_indices(chain.embedded_states), np.arange(12))
    np.testing.assert_allclose(
        chain.spectrum().left(chain.embedded_states), STOCHASTIC["chain"].spectrum().left(np.eye(12))
    )


def test_landscape_has_four_wells_and_slow_processes_apart():
    system = STOCHASTIC["four wells 2d"]
    np.testing.assert_array_equal(np.sign(system.wells), [[-1, -1], [-1, 1], [1, -1], [1, 1]])
    gradient = [
        system.potential(system.wells + step) - system.potential(system.wells - step) for step in 1e-4 * np.eye(2)
    ]
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    timescales = system.spectrum(n_modes=6).to_dataset().timescales.values
    assert (timescales[1:4] / timescales[2:5] > 1.3).all()
    assert timescales[3] > 5 * timescales[4]
    points, radius = system.wells[[2]] + [[0.2, 0.0], [0.4, 0.0]], 0.3
    assert system.core_labels(points, radius).tolist() == [2, -1]


@pytest.mark.parametrize("name", ON_A_GRID[:2])
def test_rates_are_the_dirichlet_energies_of_the_functions(name):
    # Independent of the generator's matrix: rate = D int |grad phi|^2 dpi for a function of unit norm.
    system = STOCHASTIC[name]
    spectrum = system.spectrum(n_modes=6)
    d, size = spectrum.points.shape[1], round(len(spectrum.points) ** (1 / spectrum.points.shape[1]))
    functions = spectrum.left(spectrum.points).reshape(*[size] * d, 6)
    spacing = np.ptp(spectrum.points[:, 0]) / (size - 1)
    gradients = np.gradient(functions, spacing, axis=tuple(range(d)))
    squared = sum(np.square(g) for g in (gradients if d > 1 else [gradients]))
    energy = spectrum.weights @ squared.reshape(-1, 6)
    np.testing.assert_allclose(energy, -np.log(spectrum.singular_values) / system.dt, rtol=3e-3, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_GRID)
def test_numerical_spectra_say_what_half_the_grid_changes(name):
    spectrum = STOCHASTIC[name].spectrum()
    assert spectrum.kind == "numerical"
    # modes of the plain, where next to nobody comes, are what the coarser grid changes of the last system
    assert float(spectrum.resolution.rsplit(" ", 1)[1]) < (3e-3 if name == "mueller-brown" else 1e-3)


def test_mueller_brown_has_its_published_minima_and_no_way_out_of_the_box():
    system = sys.MuellerBrown(temperature=40.0)
    minima = np.array([[-0.558, 1.442], [0.623, 0.028], [-0.050, 0.467]])
    np.testing.assert_allclose(system.potential(minima), [-146.70, -108.17, -80.77], atol=0.01)
    for step in 1e-3 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
        assert (system.potential(minima + step) > system.potential(minima) - 1e-3).all()
    frames = system.simulate(n_trajectories=200, n_steps=20).values
    assert (frames.min(axis=(0, 1)) >= [-1.5, -0.2]).all()
    assert (frames.max(axis=(0, 1)) <= [1.2, 2.0]).all()
    assert (frames.max(axis=(0, 1)) > [1.0, 1.8]).all()


def test_hot_landscape_stays_in_its_box_and_loses_its_memory():
    hot = sys.FourWellLandscape2D(temperature=3.0)
    spectrum = hot.spectrum(n_modes=4)
    assert spectrum.singular_values[1] < STOCHASTIC["four wells 2d"].spectrum(n_modes=4).singular_values[1]
    assert np.abs(hot.simulate(n_trajectories=50, n_steps=50).values).max() < spectrum.points.max()


# Properties of every spectrum


@pytest.mark.slow
@pytest.mark.parametrize("lag", [1, 3])
@stochastic
def test_singular_functions_are_orthonormal_and_start_with_the_constant(name, lag):
    spectrum = STOCHASTIC[name].spectrum(lag=lag, n_modes=7)
    weights = spectrum.weights[:, None]
    np.testing.assert_allclose(spectrum.weights.sum(), 1)
    assert (spectrum.weights >= 0).all()
    for side in (spectrum.left, spectrum.right):
        functions = side(spectrum.points)
        np.testing.assert_allclose(functions.T @ (weights * functions), np.eye(7), atol=1e-8)
        np.testing.assert_allclose(functions[:, 0], 1, atol=1e-10)
    eigenfunctions = spectrum.eigenfunctions(spectrum.points)
    np.testing.assert_allclose(spectrum.weights @ np.abs(eigenfunctions) ** 2, 1, rtol=1e-8)


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name not in ON_A_GRID])
def test_operator_maps_psi_to_sigma_phi_and_eigenfunctions_to_themselves(name, lag):
    system = STOCHASTIC[name]
    spectrum = system.spectrum(lag=lag, n_modes=7)
    for x in system.simulate(n_trajectories=5, n_steps=1, seed=2).values[:, 0]:
        points, weights = transition_points(name, x, lag)
        left, eigenfunctions = spectrum.left(x[None])[0], spectrum.eigenfunctions(x[None])[0]
        np.testing.assert_allclose(weights @ spectrum.right(points), spectrum.singular_values * left, atol=1e-9)
        np.testing.assert_allclose(
            weights @ spectrum.eigenfunctions(points), spectrum.eigenvalues * eigenfunctions, atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize("lag", [1, 3])
@stochastic
def test_simulation_agrees_with_the_spectrum(name, lag):
    # Products of high Hermite polynomials, and modes of states that next to nobody visits, have tails too heavy for an
    # error bar from the sample itself.
    system = STOCHASTIC[name]
    n_modes = 3 if isinstance(system, (sys.LinearGaussian, sys.MuellerBrown)) else 5
    spectrum = system.spectrum(lag=lag, n_modes=n_modes)
    trajectories = system.simulate(n_trajectories=1000, n_steps=60, seed=3).values

    def evaluate(function):
        return function(trajectories.reshape(-1, trajectories.shape[-1])).reshape(*trajectories.shape[:2], n_modes)

    def assert_mean(samples, expected):
        per_trajectory = samples.mean(axis=1)  # trajectories are independent, their frames are not
        error = per_trajectory.std(axis=0) / np.sqrt(len(per_trajectory))
        assert (np.abs(per_trajectory.mean(axis=0) - expected) <= 4.5 * error + 1e-9).all()

    phi, psi, eigen = evaluate(spectrum.left), evaluate(spectrum.right), evaluate(spectrum.eigenfunctions)
    assert_mean(phi[:, :-lag] * psi[:, lag:], spectrum.singular_values)
    assert_mean(phi[:, :-lag] * (psi[:, lag:] - spectrum.singular_values * phi[:, :-lag]), 0)
    assert_mean(eigen[:, :-lag].conj() * (eigen[:, lag:] - spectrum.eigenvalues * eigen[:, :-lag]), 0)
    for frame in (slice(0, 1), slice(-1, None)):  # stationary from the first frame to the last
        assert_mean(phi[:, frame], np.eye(n_modes)[0])
        assert_mean(phi[:, frame, :2] ** 2, 1)


@stochastic
def test_singular_values_decrease_with_the_lag_and_moduli_are_powers(name):
    one, three = (STOCHASTIC[name].spectrum(lag=lag, n_modes=5) for lag in (1, 3))
    assert (three.singular_values <= one.singular_values + 1e-12).all()
    np.testing.assert_allclose(np.abs(three.eigenvalues), np.abs(one.eigenvalues) ** 3, atol=1e-8)
    assert (one.clock.lag, three.clock.lag) == (1, 3)


def test_four_dimensions_use_a_sample_as_points():
    rng = np.random.default_rng(5)
    A = rng.normal(size=(4, 4))
    system = sys.LinearGaussian(0.8 * A / np.abs(np.linalg.eigvals(A)).max(), np.eye(4))
    spectrum = system.spectrum(n_modes=6)
    assert "sample of 200000" in spectrum.resolution
    phi = spectrum.left(spectrum.points)
    np.testing.assert_allclose(phi.T @ phi / len(phi), np.eye(6), atol=0.05)


def test_high_degrees_do_not_overflow():
    spectrum = sys.LinearGaussian([[0.999]], [[1.0]]).spectrum(n_modes=200)
    assert np.isfinite(spectrum.right(spectrum.points)).all()
    np.testing.assert_allclose(spectrum.singular_values, 0.999 ** np.arange(200))


def test_non_diagonalisable_matrix_lacks_eigenfunctions_only():
    spectrum = sys.LinearGaussian([[0.5, 1.0], [0.0, 0.5]], np.eye(2)).spectrum(n_modes=4)
    np.testing.assert_allclose(spectrum.eigenvalues, [1, 0.5, 0.5, 0.25])
    assert spectrum.left(spectrum.points).shape[1] == 4
    with pytest.raises(ValueError, match="A cannot be diagonalised"):
        spectrum.eigenfunctions(spectrum.points)


@stochastic
def test_eigenvalues_stand_in_the_order_of_every_spectrum(name):
    values = STOCHASTIC[name].spectrum(n_modes=7).eigenvalues
    np.testing.assert_allclose(values[eigenvalue_order(values)], values, atol=1e-12)


def test_dataset_aligns_with_an_estimated_spectrum_mode_by_mode():
    chain = sys.FiniteMarkovChain([[0.9, 0.1, 0.0], [0.1, 0.5, 0.4], [0.3, 0.0, 0.7]])
    pairs = lagged_pairs(chain.simulate(n_steps=20_000))
    spectrum = koopman_spectrum(estimate_moments(lambda x: x, lambda x: x, pairs))
    difference = spectrum.canonical_singular_values - chain.spectrum(n_modes=3).to_dataset().singular_values
    assert difference.mode.values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(difference, 0, atol=0.02)


def test_dataset_has_units_and_settings():
    dataset = STOCHASTIC["four wells 2d"].spectrum(lag=2, n_modes=3).to_dataset()
    assert dataset.timescales.attrs["units"] == "ps"
    assert {"lag": 2, "dt": 0.1, "time_unit": "ps", "kind": "numerical"}.items() <= dataset.attrs.items()
    rates = -np.log(dataset.singular_values.values[1:]) / 0.2
    np.testing.assert_allclose(dataset.timescales.values, [np.inf, *(1 / rates)])
    assert Clock.from_attrs(dataset.attrs) == Clock(2, 0.1, "ps")


def test_vanished_eigenvalue_has_timescale_zero():
    spectrum = sys.NoisyRotation(noise=50.0).spectrum(n_modes=3)
    assert spectrum.to_dataset().timescales.values.tolist()[0] == np.inf
    assert spectrum.to_dataset().timescales.values[1] < 1e-3


@given(st.integers(1, 4), st.floats(0.05, 0.95), st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_random_stable_matrix(d, radius, seed, lag):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d))
    system = sys.LinearGaussian(radius * A / np.abs(np.linalg.eigvals(A)).max(), np.eye(d))
    spectrum = system.spectrum(lag=lag, n_modes=10)
    assert spectrum.singular_values[0] == spectrum.eigenvalues[0] == 1
    assert ((spectrum.singular_values >= 0) & (spectrum.singular_values <= 1)).all()
    assert (np.diff(spectrum.singular_values) <= 0).all()
    # Weyl: products of the largest eigenvalues never exceed those of the largest singular values.
    assert np.abs(spectrum.eigenvalues[1]) <= spectrum.singular_values[1] + 1e-12


@given(st.integers(2, 8), st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_random_stochastic_matrix(n_states, seed, lag):
    P = np.random.default_rng(seed).dirichlet(np.ones(n_states), size=n_states)
    chain = sys.FiniteMarkovChain(P)
    spectrum = chain.spectrum(lag=lag, n_modes=n_states)
    np.testing.assert_allclose(chain.stationary_distribution @ P, chain.stationary_distribution, atol=1e-12)
    assert ((spectrum.singular_values >= 0) & (spectrum.singular_values <= 1 + 1e-12)).all()
    assert (np.diff(spectrum.singular_values) <= 1e-12).all()
    phi, psi = spectrum.left(spectrum.points), spectrum.right(spectrum.points)
    rebuilt = phi * spectrum.singular_values @ psi.T * spectrum.weights
    np.testing.assert_allclose(rebuilt, np.linalg.matrix_power(P, lag), atol=1e-9)


@given(st.lists(st.floats(0.05, 0.97), min_size=1, max_size=3), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_leading_products_are_the_largest(factors, n_terms):
    factors = np.array(factors)
    exponents = np.stack(np.meshgrid(*[np.arange(41)] * len(factors), indexing="ij"), axis=-1).reshape(-1, len(factors))
    largest = np.sort(np.prod(factors**exponents, axis=1))[::-1][:n_terms]
    found = np.array([np.prod(factors ** np.array(e)) for e in leading_products(factors, n_terms)])
    np.testing.assert_allclose(found[:n_terms], largest, rtol=1e-9)
    assert (found[n_terms:] >= found[n_terms - 1] * (1 - 1e-8)).all()


# Simulation


@every
def test_seed_decides_the_trajectories(name):
    system = EVERY[name]
    first, again, other = (system.simulate(n_trajectories=2, n_steps=5, seed=seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@every
def test_trajectories_are_labelled(name):
    system = EVERY[name]
    trajectories = system.simulate(n_trajectories=2, n_steps=4, seed=7)
    assert trajectories.dims == ("trajectory", "time", "coordinate")
    assert trajectories.shape[:2] == (2, 4)
    assert trajectories.dtype == np.float64
    assert trajectories.attrs["dt"] == system.dt
    assert trajectories.attrs["time_unit"] == trajectories.time.attrs["units"] == system.time_unit
    assert trajectories.attrs["seed"] == 7
    assert trajectories.attrs["system"] == type(system).__name__
    assert json.loads(trajectories.attrs["parameters"])["dt"] == system.dt
    np.testing.assert_allclose(trajectories.time, system.dt * np.arange(4))
    assert system.simulate(n_steps=1).shape[:2] == (1, 1)


@pytest.mark.parametrize(
    ("name", "is_inside"),
    [
        ("logistic", lambda x: (x >= 0) & (x < 1)),
        ("rotation", lambda x: np.abs((x**2).sum(axis=-1) - 1) < 1e-12),
        ("chain", lambda x: (x.sum(axis=-1) == 1) & (x.max(axis=-1) == 1)),
        ("four wells 1d", lambda x: np.abs(x) <= 1.2),
        ("lorenz", lambda x: np.abs(x - [0, 0, 25]) < [25, 30, 30]),
        ("duffing", lambda x: np.abs(x) < 4),
    ],
)
def test_states_stay_in_their_domain(name, is_inside):
    assert is_inside(EVERY[name].simulate(n_trajectories=20, n_steps=1000, seed=1).values).all()


def test_logistic_state_never_rounds_up_to_one():
    from koopman_lora.systems.noisy_logistic_map import _wrap

    np.testing.assert_array_equal(_wrap(np.array([-1e-18, 1.0, 1.25])), [0.0, 0.0, 0.25])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_systems_solve_their_equations(name):
    system = DETERMINISTIC[name]
    trajectory = system.simulate(n_steps=3, seed=4).values[0]
    solution = solve_ivp(
        lambda _, x: system.velocity(x[:, None])[:, 0], (0, 2 * system.dt), trajectory[0], rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(trajectory[-1], solution.y[:, -1], rtol=1e-5)


def test_duffing_ends_in_a_well():
    ends = sys.Duffing().simulate(n_trajectories=30, n_steps=200).values[:, -1]
    np.testing.assert_allclose(np.abs(ends[:, 0]), 1, atol=1e-4)
    assert {-1, 1} == set(np.sign(ends[:, 0]))


# Errors

TWO_STATES = [[0.9, 0.1], [0.3, 0.7]]


@every
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"n_trajectories": 0}, "n_trajectories must be at least 1, got 0"),
        ({"n_steps": 2.5}, "n_steps must be a whole number of at least 1, got 2.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_simulate_refuses(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        EVERY[name].simulate(**arguments)


@every
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lag": 0}, "lag must be an integer number of frames, at least 1; got 0"),
        ({"lag": 1.5}, "lag must be an integer number of frames, at least 1; got 1.5"),
        ({"n_modes": 0}, "n_modes must be at least 1, got 0"),
    ],
)
def test_spectrum_refuses(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        EVERY[name].spectrum(**arguments)


@pytest.mark.parametrize(
    ("system", "n_modes", "available"),
    [
        (sys.NoisyLogisticMap(order=4), 6, 5),
        (sys.FiniteMarkovChain(TWO_STATES), 3, 2),
        (sys.FourWellLangevin1D(), 201, 200),
        (sys.FourWellLandscape2D(), 201, 200),
        (sys.MuellerBrown(), 201, 200),
        (sys.LinearGaussian(np.zeros((2, 2)), np.eye(2)), 2, 1),
    ],
)
def test_more_modes_than_there_are(system, n_modes, available):
    with pytest.raises(ValueError, match=f"n_modes={n_modes} is more than the {available} available"):
        system.spectrum(n_modes=n_modes)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_systems_have_no_spectrum(name):
    with pytest.raises(sys.NoReferenceSpectrumError, match="is deterministic"):
        DETERMINISTIC[name].spectrum()


@stochastic
def test_functions_refuse_states_of_another_shape(name):
    spectrum = STOCHASTIC[name].spectrum(n_modes=2)
    for function in (spectrum.left, spectrum.right, spectrum.eigenfunctions):
        with pytest.raises(ValueError, match=r"x must have shape \(n, \d+\), got \(4,\)"):
            function(np.zeros(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sys.NoisyLogisticMap(order=3), "order must be even, got 3"),
        (lambda: sys.NoisyLogisticMap(order=0), "order must be at least 1, got 0"),
        (lambda: sys.NoisyLogisticMap(dt=0.0), "dt must be a positive finite time"),
        (lambda: sys.NoisyRotation(noise=-0.1), "noise must be a finite number of at least 0, got -0.1"),
        (lambda: sys.NoisyRotation(omega=np.inf), "omega must be a finite angle"),
        (lambda: sys.NoisyRotation(dt=-1.0), "dt must be a positive finite time"),
        (lambda: sys.LinearGaussian([[1.0]], [[1.0]]), "A must have all eigenvalues inside the unit circle"),
        (lambda: sys.LinearGaussian([[0.5, 0.1]], [[1.0]]), "A must be"),
        (lambda: sys.LinearGaussian([[np.nan]], [[1.0]]), "A must be"),
        (lambda: sys.LinearGaussian([[0.5]], np.eye(2)), "B must be a finite matrix with 1 rows like A"),
        (lambda: sys.LinearGaussian(0.5 * np.eye(2), [[1.0], [0.0]]), "B does not drive every direction"),
        (lambda: sys.LinearGaussian(0.5 * np.eye(2), [[1.0], [1.0]]), "B does not drive every direction"),
        (lambda: sys.LinearGaussian([[0.5]], [[1.0]], dt=0.0), "dt must be a positive finite time"),
        (lambda: sys.OrnsteinUhlenbeck([[-1.0]], [[1.0]]), "drift must have eigenvalues with positive real part"),
        (lambda: sys.OrnsteinUhlenbeck([1.0], [[1.0]]), "drift must be a finite square matrix"),
        (lambda: sys.OrnsteinUhlenbeck([[1.0]], [1.0]), "diffusion must be a finite matrix"),
        (lambda: sys.OrnsteinUhlenbeck([[1.0]], [[1.0]], dt=-0.1), "dt must be a positive finite time"),
        (lambda: sys.OrnsteinUhlenbeck(np.eye(2), [[1.0], [0.0]]).discretised, "does not drive every direction"),
        (lambda: sys.FiniteMarkovChain([[0.5, 0.4], [0.5, 0.5]]), "rows that sum to 1, row 0 sums to 0.9"),
        (lambda: sys.FiniteMarkovChain([[1.5, -0.5], [0.5, 0.5]]), "entries of at least 0, the smallest is -0.5"),
        (lambda: sys.FiniteMarkovChain([[0.5, 0.5]]), "transition_matrix must be square"),
        (lambda: sys.FiniteMarkovChain(np.eye(2)), "transition_matrix must be irreducible"),
        (lambda: sys.FiniteMarkovChain(TWO_STATES, embedding="onehot"), "embedding must be 'one-hot', 'index' or"),
        (lambda: sys.FiniteMarkovChain(TWO_STATES, embedding=np.zeros(2)), "embedding must be a finite array"),
        (lambda: sys.FiniteMarkovChain(TWO_STATES, embedding=np.zeros((2, 1))), "the same point to several states"),
        (lambda: sys.FiniteMarkovChain(TWO_STATES, blocks=[0]), "blocks must be one label for each of 2 states"),
        (lambda: sys.FiniteMarkovChain(TWO_STATES, dt=0), "dt must be a positive finite time"),
        (lambda: sys.FiniteMarkovChain.with_blocks(coupling=1.0), "coupling must be a probability"),
        (lambda: sys.FiniteMarkovChain.with_blocks(n_blocks=0), "n_blocks must be at least 1"),
        (lambda: sys.FourWellLangevin1D(dt=0), "dt must be a positive finite time between two frames; got 0"),
        (lambda: sys.FourWellLandscape2D(temperature=-1.0), "temperature must be a positive finite number, got -1.0"),
        (lambda: sys.FourWellLandscape2D(dt="0.1"), "dt must be a positive finite time between two frames; got '0.1'"),
        (lambda: sys.FourWellLandscape2D().core_labels(np.zeros((1, 2)), radius=0), "radius must be a positive"),
        (lambda: sys.MuellerBrown(temperature=4.0), "temperature must be at least 5; got 4.0"),
        (lambda: sys.MuellerBrown().potential(np.full((1, 2), 11.0)), r"shape \(..., 2\), none beyond 10; got shape"),
        (lambda: sys.Lorenz63(rho=np.nan), "rho must be a positive finite number, got nan"),
        (lambda: sys.Duffing(damping=0.0), "damping must be a positive finite number, got 0.0"),
    ],
)
def test_invalid_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
