import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import norm

import koopman_lora as kl
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.scores import Validation
from koopman_lora.selection import null_quantile, select_n_modes
from koopman_lora.systems import FiniteMarkovChain, NoisyLogisticMap, NoisyRotation

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
    assert 5 <= selection.recommended <= 7
    assert 5 <= selection.n_null <= 7
    logistic = NoisyLogisticMap().simulate(n_trajectories=4, n_steps=2501, seed=0)  # .923 .892 .696 .657 .426 .404 .211
    assert 5 <= quick(10, n_epochs=20).fit(logistic).select_n_modes().recommended <= 9


@pytest.mark.parametrize("seed", range(4))
def test_the_null_rule_counts_exactly_the_modes_that_exist(seed):
    selection = select_n_modes(exact_validation(ROTATION, 5, 2000, seed, n_invented=4))
    assert selection.n_null == 5
    assert selection.n_vamp_e in (4, 5)
    assert selection.recommended == min(selection.n_null, selection.n_vamp_e)


def test_the_slow_modes_of_a_chain_with_blocks_are_above_noise():
    """The two slow modes stay for some 50 and 70 steps: shifts shorter than that would still be correlated."""
    selection = select_n_modes(exact_validation(CHAIN, 4, 4000, n_invented=3))
    assert 3 <= selection.n_null <= 4
    assert selection.null_quantile < 0.4


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


def test_the_null_quantile_is_that_of_the_largest_of_many_correlations():
    rng = np.random.default_rng(0)
    n, k = 2000, 6
    phi, psi = rng.normal(size=(2, n, k))
    validation = Validation.of_functions(np.full(k, 0.1), phi, psi, lagged_pairs(rng.normal(size=n + 1)))
    wanted = norm.ppf(0.95 ** (1 / (k - 1))) / np.sqrt(n)  # the first mode is not on trial
    assert null_quantile(validation, n_shifts=2000) == pytest.approx(wanted, rel=0.15)
    assert null_quantile(validation, level=0.5) < null_quantile(validation, level=0.99)


def test_shifts_of_the_null_are_longer_than_the_memory():
    """Half of 0.98^10 is left at a shift of ten lags, nothing but noise of 0.1 beyond 150."""
    values = lfilter([1.0], [1.0, -0.98], np.random.default_rng(0).normal(size=4001))
    phi, psi = (np.column_stack([np.ones(4000), side]) for side in (values[:-1], values[1:]))
    validation = Validation.of_functions(np.array([1.0, 0.98]), phi, psi, lagged_pairs(values))
    assert np.corrcoef(values[:-11], values[11:])[0, 1] > 0.6
    assert null_quantile(validation, level=0.999, n_shifts=2000) < 0.4


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
