import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermevander
from scipy.signal import lfilter
from scipy.stats import norm

import koopman_lora as kl
from koopman_lora._linalg import whitened_svd
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.scores import Validation
from koopman_lora.selection import _correlations, _shifted_correlations, noise_thresholds, select_n_modes
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, NoisyLogisticMap, NoisyRotation

ROTATION = NoisyRotation(omega=0.5, noise=0.5)  # sigma 1, .882, .882, .607, .607, .325, .325, ...
CHAIN = FiniteMarkovChain.with_blocks()


def quick(n_modes, **options):
    return kl.KoopmanLoRA(n_modes=n_modes, **({"hidden_dims": (32, 32), "n_epochs": 6} | options))


def exact_validation(system, n_modes, n_pairs, seed=0, n_invented=0):
    """Exact functions at fresh pairs, and `n_invented` modes of pure noise that claim to be something."""
    reference = system.spectrum(lag=1, n_modes=n_modes)
    pairs = lagged_pairs(system.simulate(n_steps=n_pairs + 1, seed=seed))
    noise = np.random.default_rng(seed).normal(size=(2, n_pairs, n_invented))
    phi = np.hstack([reference.left(pairs.x.numpy()), noise[0]])
    psi = np.hstack([reference.right(pairs.x_next.numpy()), noise[1]])
    return Validation.of_functions(np.r_[reference.singular_values, np.full(n_invented, 0.15)], phi, psi, pairs)


def noise_trajectories(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "independent":
        return rng.normal(size=(3001, 2))
    walk = np.cumsum(rng.normal(size=(2, 1501, 2)), axis=1)
    return list(np.diff(walk, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["independent", "increments of a random walk"])
@pytest.mark.parametrize("seed", range(3))
def test_noise_has_the_constant_mode_only(kind, seed):
    selection = quick(6, seed=seed).fit(noise_trajectories(kind, seed)).select_n_modes()
    assert selection.recommended == 1
    assert selection.n_null == 1


@pytest.mark.slow
def test_modes_clearly_above_noise_are_found_by_a_fit():
    trajectories = ROTATION.simulate(n_trajectories=4, n_steps=1501, seed=0)
    selection = quick(9).fit(trajectories).select_n_modes()
    assert 7 <= selection.recommended <= 9  # the last two are .135, which 600 pairs may or may not show
    logistic = NoisyLogisticMap().simulate(n_trajectories=4, n_steps=2501, seed=0)  # .923 .892 .696 .657 .426 .404 .211
    assert 5 <= quick(10, n_epochs=20).fit(logistic).select_n_modes().recommended <= 9


@pytest.mark.parametrize("seed", range(4))
def test_the_null_rule_counts_exactly_the_modes_that_exist(seed):
    selection = select_n_modes(exact_validation(ROTATION, 5, 2000, seed, n_invented=4))
    assert selection.n_null == 5
    assert selection.n_vamp_e in (4, 5)
    assert selection.recommended == selection.n_null
    assert not selection.is_capped


def test_the_slow_modes_of_a_chain_with_blocks_are_above_noise():
    """The two slow modes stay for some 50 and 70 steps: shifts shorter than that would still be correlated."""
    selection = select_n_modes(exact_validation(CHAIN, 4, 4000, n_invented=3))
    assert selection.n_null == 4
    slow, fast = selection.noise_threshold[[1, 2]], selection.noise_threshold[3:]
    assert (slow < 0.6).all()
    assert (fast < 0.5 * float(slow.min())).all()  # few independent values of slow functions do not hide the fast ones
    assert np.isnan(selection.noise_threshold[0])


def test_all_modes_real_means_that_more_may_be():
    for n_modes, is_capped in ((1, True), (5, True), (7, True)):
        selection = select_n_modes(exact_validation(ROTATION, n_modes, 4000))
        assert selection.recommended == n_modes
        assert bool(selection.is_capped) is is_capped
        why = "only the constant was fitted" if n_modes == 1 else "all that were fitted are real"
        assert selection.answer == f"at least {n_modes} ({why}: fit more)"
    assert not select_n_modes(exact_validation(ROTATION, 5, 4000, n_invented=1)).is_capped


def test_a_real_mode_behind_one_that_the_pairs_do_not_show_is_counted():
    validation = exact_validation(ROTATION, 5, 2000, n_invented=2)
    order = [0, 1, 5, 2, 3, 4, 6]
    moved = Validation.of_functions(
        validation.sigma, validation.phi[:, order], validation.psi[:, order], lagged_pairs(np.arange(2001.0))
    )
    assert select_n_modes(moved).recommended == 6


# --- what was measured -----------------------------------------------------------------------------------------------
# With linear fits as below, 4,000 pairs, 400 of them held out.
# White noise of 1 and 5 coordinates; cosines and ramps; 2, 8 and 20 modes; 400 seeds each: more than the constant in
# 0.8 to 2.5 % of fits.
# Exact sigma above .3 whose held-out correlation is as well; 5, 12 and 20 modes; 100 seeds each: all found in 100 % of
# fits. The smaller of VAMP-E and null, which was recommended before, found all in 100 % for rotation and logistic map,
# but in 45 to 55 % for the chain of 3 blocks, 10 to 50 % of 9 blocks, 45 to 60 % for Ornstein-Uhlenbeck (20 seeds):
# the standard error of the score of slow modes is larger than what the next modes add.


def linear_fit(pairs, features, n_modes, seed):
    """Linear VAMP of centred features on the training pairs, at the held-out ones: what `refine` does, in no time."""
    training, held_out = split_pairs(pairs, 0.1, seed=seed)
    (f, g), (f_held, g_held) = (
        (features(p.x.double().numpy()), features(p.x_next.double().numpy())) for p in (training, held_out)
    )
    moving = f.std(axis=0) > 1e-9
    f, f_held, g, g_held = (side[:, moving] for side in (f, f_held, g, g_held))
    f_held, g_held = f_held - f.mean(axis=0), g_held - g.mean(axis=0)
    f, g = f - f.mean(axis=0), g - g.mean(axis=0)
    solution = whitened_svd(f.T @ f, f.T @ g, g.T @ g, rank=n_modes - 1)
    one = np.ones((len(held_out), 1))
    phi, psi = np.hstack([one, f_held @ solution.left]), np.hstack([one, g_held @ solution.right])
    return Validation.of_functions(np.r_[1.0, solution.values], phi, psi, held_out)


def random_cosines(n_coordinates, seed):
    rng = np.random.default_rng(1000 + seed)
    directions, offsets = rng.normal(size=(n_coordinates, 39)), rng.uniform(0, 2 * np.pi, 39)
    return lambda x: np.cos(x @ directions + offsets)


def harmonics(x):
    z = (x[:, 0] + 1j * x[:, 1])[:, None] ** np.arange(1, 11)
    return np.hstack([z.real, z.imag])


@pytest.mark.slow
@pytest.mark.parametrize("n_coordinates", [1, 5])
def test_white_noise_has_the_constant_only_in_95_of_100_fits(n_coordinates):
    """A fit to noise has more in at most 2.5 %, so that more than 5 of 100 come up in 3 % of all hundreds, at most."""
    found = []
    for seed in range(100):
        pairs = lagged_pairs(np.random.default_rng(seed).normal(size=(4001, n_coordinates)))
        found.append(select_n_modes(linear_fit(pairs, random_cosines(n_coordinates, seed), 8, seed)).recommended == 1)
    assert np.sum(found) >= 95


OU = LinearGaussian([[0.8]], [[1.0]])
REAL = {
    "rotation": (ROTATION, harmonics),
    "chain of 3 blocks": (CHAIN, lambda x: x),
    "chain of 9 blocks": (FiniteMarkovChain.with_blocks(n_blocks=9, states_per_block=2, coupling=0.2), lambda x: x),
    "logistic map": (NoisyLogisticMap(), lambda x: np.cos(np.pi * x * np.arange(1, 16))),
    "Ornstein-Uhlenbeck": (OU, lambda x: hermevander(np.clip(0.6 * x[:, 0], -4, 4), 8)[:, 1:]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_true_modes_with_a_held_out_correlation_above_03_are_found(name):
    """In every one of 1,500 fits measured; one in 20 is allowed to fail."""
    system, features = REAL[name]
    exact = system.spectrum(lag=1, n_modes=12).singular_values
    found = []
    for seed in range(40):
        pairs = lagged_pairs(system.simulate(n_steps=4001, seed=seed))
        selection = select_n_modes(linear_fit(pairs, features, (5, 12)[seed % 2], seed))
        held = selection.sigma_held_out.values
        true = np.flatnonzero((held > 0.3) & (exact[: len(held)] > 0.3))
        found.append(selection.recommended >= 1 + true[-1])
    assert np.mean(found) >= 0.95


def test_the_answer_hardly_depends_on_how_many_were_fitted():
    pairs = lagged_pairs(ROTATION.simulate(n_steps=4001, seed=0))
    found = [select_n_modes(linear_fit(pairs, harmonics, n, 0)) for n in (4, 7, 10, 14, 20)]
    assert [int(selection.recommended) for selection in found[:2]] == [4, 7]
    assert [bool(selection.is_capped) for selection in found] == [True, True, False, False, False]
    assert all(7 <= selection.recommended <= 9 for selection in found[2:])
    n = int(found[-1].recommended)
    assert found[-1].answer == f"{n} (modes {n + 1} to 20 are not above the noise of 400 held-out pairs)"


def test_noise_is_answered_with_none():
    pairs = lagged_pairs(np.random.default_rng(0).normal(size=(4001, 2)))
    selection = select_n_modes(linear_fit(pairs, random_cosines(2, 0), 8, 0))
    assert selection.answer == "none (no mode but the constant is above the noise of 400 held-out pairs)"
    lower, upper = selection.sigma_held_out_interval.values[:, 1:]
    assert np.mean((lower <= 0) & (upper >= 0)) >= 5 / 7


def test_intervals_hold_the_exact_values():
    """95 % intervals of 200 seeds held the exact values in 94 to 99 %, mode by mode, with 400 and 2,000 pairs of the
    rotation and 4,000 of the chain; 40 seeds of 4 modes fall below 85 % of their numbers in one case of 10,000."""
    sigma = ROTATION.spectrum(lag=1, n_modes=5).singular_values
    exact = {
        "sigma_held_out": sigma,
        "vamp_e": np.cumsum(sigma**2),
        "energy": np.cumsum(sigma) / sigma.sum(),
        "captured_share": np.cumsum(sigma**2) / np.sum(sigma**2),
    }
    inside = {name: [] for name in exact}
    for seed in range(40):
        selection = select_n_modes(exact_validation(ROTATION, 5, 400, seed), n_shifts=2)
        for name, value in exact.items():
            lower, upper = selection[f"{name}_interval"].values
            inside[name].append((lower <= value + 1e-9) & (value <= upper + 1e-9))
    for name, found in inside.items():
        assert np.mean(np.array(found)[:, 1:]) >= 0.85, name


def test_intervals_are_wider_at_a_higher_level_and_unknown_of_few_blocks():
    validation = exact_validation(ROTATION, 4, 400)
    narrow, wide = (select_n_modes(validation, level=level, n_shifts=2) for level in (0.5, 0.99))
    for name in ("sigma_held_out", "vamp_e", "energy", "captured_share"):
        widths = [np.diff(s[f"{name}_interval"].values, axis=0)[0, 1:3] for s in (narrow, wide)]
        assert (widths[0] < widths[1]).all(), name
    assert (narrow.sigma_held_out_interval[:, 0] == 1).all()
    blocks = np.arange(validation.moments.n_blocks) // 8
    few = dataclasses.replace(validation, moments=validation.moments.merged(blocks))
    assert np.isnan(select_n_modes(few, n_shifts=2).sigma_held_out_interval).all()


def test_the_shares_of_an_over_fit_lie_outside_their_intervals():
    validation = exact_validation(ROTATION, 5, 2000)
    over_fit = dataclasses.replace(validation, sigma=np.array([1.0, 0.97, 0.97, 0.95, 0.95]))
    selection = select_n_modes(over_fit, n_shifts=2)
    assert (selection.energy[1:3] < selection.energy_interval[0, 1:3]).all()


def test_all_four_rules_on_numbers_made_by_hand():
    validation = exact_validation(ROTATION, 5, 4000, n_invented=2)
    selection = select_n_modes(validation, energy=0.8)
    sigma = validation.sigma
    assert np.allclose(selection.energy, np.cumsum(sigma) / np.sum(sigma))
    assert np.allclose(selection.captured_share, np.cumsum(sigma**2) / np.sum(sigma**2))
    # 1 .882 .882 .607 .607 .15 .15: sums 1 1.88 2.77 3.37 3.98 of 4.28; squares 1 1.78 2.56 2.93 3.29 of 3.34
    assert (selection.n_energy, selection.n_captured_share, selection.n_elbow) == (5, 4, 5)
    assert selection.energy_fraction == 0.8
    assert selection.mode.values.tolist() == list(range(1, 8))
    assert selection.sigma_held_out[0] == 1
    assert np.allclose(selection.sigma_held_out[1:5], sigma[1:5], atol=0.05)
    assert np.abs(selection.sigma_held_out[5:]).max() < 0.06


def test_the_vamp_e_curve_charges_for_invented_modes():
    validation = exact_validation(ROTATION, 5, 20_000, n_invented=2)
    selection = select_n_modes(validation)
    wanted = np.cumsum(validation.sigma[:5] ** 2)
    assert np.allclose(selection.vamp_e[:5], wanted, atol=0.05)
    assert np.allclose(selection.vamp_e[5:] - selection.vamp_e[4], -np.arange(1, 3) * 0.15**2, atol=0.01)
    assert selection.vamp_e_gap.min() == 0
    assert selection.vamp_e_gap_error[int(selection.vamp_e_gap.argmin("mode"))] == 0


@given(seed=st.integers(0, 500), k=st.integers(1, 5))
def test_the_answer_is_never_zero(seed, k):
    rng = np.random.default_rng(seed)
    pairs = lagged_pairs(rng.normal(size=81))
    phi, psi = rng.normal(size=(2, 80, k))
    phi[:, 0] = psi[:, 0] = 1
    validation = Validation.of_functions(np.sort(rng.uniform(0, 1, k))[::-1], phi, psi, pairs)
    selection = select_n_modes(validation, n_shifts=20)
    for name in ("n_energy", "n_captured_share", "n_elbow", "n_vamp_e", "n_null", "recommended"):
        assert 1 <= selection[name] <= k, name


def test_the_thresholds_are_those_of_the_largest_of_many_correlations():
    rng = np.random.default_rng(0)
    n, k = 2000, 6
    phi, psi = rng.normal(size=(2, n, k))
    validation = Validation.of_functions(np.full(k, 0.1), phi, psi, lagged_pairs(rng.normal(size=n + 1)))
    share = 1 - 0.05 / 8
    wanted = norm.ppf(share ** (1 / (k - 1))) / np.sqrt(n)  # the first mode is not on trial
    assert noise_thresholds(validation)[1:] == pytest.approx(wanted, rel=0.15)
    assert (noise_thresholds(validation, level=0.5)[1:] < noise_thresholds(validation, level=0.99)[1:]).all()


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", [50, 53])  # lengths that Fourier transforms like, and do not
def test_functions_at_a_shift_have_the_correlation_of_rolled_arrays(n, is_complex, is_weighted):
    rng = np.random.default_rng(0)
    phi, psi = rng.normal(size=(2, n, 3)) + 1j * is_complex * rng.normal(size=(2, n, 3))
    weights = rng.random(n) if is_weighted else np.ones(n)
    mean_f, mean_g = (np.average(v, axis=0, weights=weights) for v in (phi, psi))
    wanted = []
    for shift in (0, 7, n - 1):
        a, b = phi - mean_f, np.roll(psi - mean_g, shift, axis=0)
        spread_f, spread_g = (np.average(abs(v - np.average(v, 0, weights)) ** 2, 0, weights) for v in (a, b))
        wanted.append(np.average(np.conj(a) * b, 0, weights).real / np.sqrt(spread_f * spread_g))
    found = _shifted_correlations(phi, psi, np.array([0, 7, n - 1]), weights if is_weighted else None)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    validation = Validation.of_functions(np.ones(3), phi, psi, lagged_pairs(rng.normal(size=n + 1)))
    validation = dataclasses.replace(validation, weights=weights if is_weighted else None)
    np.testing.assert_allclose(_correlations(validation), wanted[0], atol=1e-12)


def test_shifts_of_the_null_are_longer_than_the_memory():
    """Half of 0.98^10 is left at a shift of ten lags, nothing but noise of 0.1 beyond 150."""
    values = lfilter([1.0], [1.0, -0.98], np.random.default_rng(0).normal(size=4001))
    phi, psi = (np.column_stack([np.ones(4000), side]) for side in (values[:-1], values[1:]))
    validation = Validation.of_functions(np.array([1.0, 0.98]), phi, psi, lagged_pairs(values))
    assert np.corrcoef(values[:-11], values[11:])[0, 1] > 0.6
    assert noise_thresholds(validation, level=0.996)[1] < 0.4


def test_few_pairs_and_fractions_outside_0_and_1_are_refused():
    validation = exact_validation(ROTATION, 3, 60)
    for value in (0, 1, 90):
        with pytest.raises(ValueError, match=f"energy must lie between 0 and 1; got {value}"):
            select_n_modes(validation, energy=value)
        with pytest.raises(ValueError, match=f"level must lie between 0 and 1; got {value}"):
            select_n_modes(validation, level=value)
    with pytest.raises(ValueError, match="validation holds 40 held-out pairs; at least 50 are needed"):
        select_n_modes(exact_validation(ROTATION, 3, 40))


def test_modes_count_from_one_and_settings_travel():
    selection = select_n_modes(exact_validation(ROTATION, 3, 400), energy=0.8, level=0.9, n_shifts=50, seed=2)
    assert selection.mode.values.tolist() == [1, 2, 3]
    assert all(selection[name].dims == ("mode",) for name in ("sigma", "energy", "vamp_e", "vamp_e_gap_error"))
    settings = {"energy_fraction": 0.8, "level": 0.9, "n_shifts": 50, "seed": 2, "n_pairs_held_out": 400}
    assert {name: selection.attrs[name] for name in settings} == settings


def test_a_lag_that_nobody_said_is_asked_for():
    """Shifts must be longer than the memory, which is counted in lags."""
    known = exact_validation(ROTATION, 3, 100)
    bare = lagged_pairs((np.arange(1.0, 101), np.arange(2.0, 102)))
    validation = Validation.of_functions(known.sigma, known.phi, known.psi, bare)
    with pytest.raises(
        ValueError, match=r"the lag of these pairs is unknown, .* longer than the memory; say it in frames"
    ):
        select_n_modes(validation)
