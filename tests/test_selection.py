import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import koopman_lora as kl
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.scores import Validation, vamp_e
from koopman_lora.selection import (
    _cumulative_vamp_e,
    _plateau,
    cross_validate,
    null_quantile,
    scan_lags,
    select_n_modes,
)
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
    return Validation(np.r_[reference.singular_values, np.full(n_invented, 0.15)], phi, psi, pairs)


# --- number of modes ---------------------------------------------------------------------------------------------


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


@given(seed=st.integers(0, 500))
def test_the_cumulative_curve_is_vamp_e_of_each_leading_number(seed):
    rng = np.random.default_rng(seed)
    phi, psi = rng.normal(size=(2, 30, 4))
    sigma = np.sort(rng.uniform(0, 1, 4))[::-1]
    C00, C01, C11 = phi.T @ phi / 30, phi.T @ psi / 30, psi.T @ psi / 30
    wanted = [vamp_e(sigma[:n], C00[:n, :n], C01[:n, :n], C11[:n, :n]) for n in range(1, 5)]
    assert np.allclose(_cumulative_vamp_e(sigma, C00, C01, C11), wanted)


@given(seed=st.integers(0, 500), k=st.integers(1, 5))
def test_the_answer_is_never_zero(seed, k):
    rng = np.random.default_rng(seed)
    pairs = lagged_pairs(rng.normal(size=81))
    phi, psi = rng.normal(size=(2, 80, k))
    phi[:, 0] = psi[:, 0] = 1
    selection = select_n_modes(Validation(np.sort(rng.uniform(0, 1, k))[::-1], phi, psi, pairs), n_shifts=20)
    for name in ("n_energy", "n_captured_share", "n_elbow", "n_vamp_e", "n_null", "recommended"):
        assert 1 <= selection[name] <= k, name


def test_the_null_quantile_is_that_of_the_largest_of_many_correlations():
    rng = np.random.default_rng(0)
    n, k = 2000, 6
    phi, psi = rng.normal(size=(2, n, k))
    validation = Validation(np.full(k, 0.1), phi, psi, lagged_pairs(rng.normal(size=n + 1)))
    from scipy.stats import norm

    wanted = norm.ppf(0.95 ** (1 / (k - 1))) / np.sqrt(n)  # the first mode is not on trial
    assert null_quantile(validation, n_shifts=2000) == pytest.approx(wanted, rel=0.15)
    assert null_quantile(validation, level=0.5) < null_quantile(validation, level=0.99)


def test_few_pairs_and_fractions_outside_0_and_1_are_refused():
    validation = exact_validation(ROTATION, 3, 60)
    for value in (0, 1, 90):
        with pytest.raises(ValueError, match=f"energy must lie between 0 and 1; got {value}"):
            select_n_modes(validation, energy=value)
        with pytest.raises(ValueError, match=f"level must lie between 0 and 1; got {value}"):
            select_n_modes(validation, level=value)
    with pytest.raises(ValueError, match="validation holds 40 held-out pairs; at least 50 are needed"):
        select_n_modes(exact_validation(ROTATION, 3, 40))


# --- cross-validation --------------------------------------------------------------------------------------------


class Recorder(kl.KoopmanLoRA):
    """Remembers the pairs of every fit and of every evaluation."""

    fitted, evaluated = [], []

    def fit(self, X, y=None):
        Recorder.fitted.append(X)
        return super().fit(X)

    def estimate_moments(self, X, n_blocks=64):
        Recorder.evaluated.append(X)
        return super().estimate_moments(X, n_blocks)


def frames(pairs):
    return {(t, f + d) for t, f in zip(pairs.trajectory, pairs.frame, strict=True) for d in (0, pairs.lag)}


@pytest.mark.parametrize("by", ["blocks", "trajectory"])
def test_folds_share_no_frame_and_hold_out_every_pair_once(by):
    Recorder.fitted, Recorder.evaluated = [], []
    trajectories = ROTATION.simulate(n_trajectories=4, n_steps=150, seed=0)
    estimator = Recorder(n_modes=3, lag=2, hidden_dims=(8,), n_epochs=1)
    result = cross_validate(estimator, trajectories, n_folds=4, by=by)
    assert not hasattr(estimator, "model_")
    held = [e for e in Recorder.evaluated if not any(e is f for f in Recorder.fitted)]
    assert len(held) == len(Recorder.fitted) == 4
    for train, test in zip(Recorder.fitted, held, strict=True):
        assert not frames(train) & frames(test)
    every = [(t, f) for test in held for t, f in zip(test.trajectory, test.frame, strict=True)]
    assert len(every) == len(set(every)) == 4 * 148
    if by == "trajectory":
        assert all(len(np.unique(test.trajectory)) == 1 for test in held)
    assert result.by == by


@pytest.mark.slow
def test_cross_validated_scores_are_near_the_truth():
    trajectories = ROTATION.simulate(n_trajectories=4, n_steps=1501, seed=0)
    result = cross_validate(quick(5), trajectories, n_folds=3)
    sigma = ROTATION.spectrum(lag=1, n_modes=5).singular_values
    assert result.vamp_1_mean == pytest.approx(sigma.sum(), abs=0.15)
    assert result.vamp_2_mean == pytest.approx((sigma**2).sum(), abs=0.15)
    assert result.vamp_e_mean == pytest.approx((sigma**2).sum(), abs=0.15)
    assert result.sizes == {"fold": 3}
    assert result.vamp_e_mean == pytest.approx(float(result.vamp_e.mean()))
    assert result.vamp_e_standard_error == pytest.approx(float(result.vamp_e.std(ddof=1)) / np.sqrt(3))
    assert result.counts_constant_mode


def test_impossible_folds_are_refused():
    trajectories = ROTATION.simulate(n_trajectories=3, n_steps=50, seed=0)
    for n_folds in (1, 0):
        with pytest.raises(ValueError, match=f"n_folds must lie between 2 and the .* groups of data; got {n_folds}"):
            cross_validate(quick(3), trajectories, n_folds=n_folds)
    with pytest.raises(ValueError, match="n_folds must lie between 2 and the 3 groups of data; got 4"):
        cross_validate(quick(3), trajectories, n_folds=4, by="trajectory")
    with pytest.raises(ValueError, match="by must be one of 'auto', 'trajectory', 'blocks'; got 'rows'"):
        cross_validate(quick(3), trajectories, by="rows")


# --- lags --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rotation_data():
    return NoisyRotation(omega=0.5, noise=0.5, dt=0.5).simulate(n_trajectories=4, n_steps=1501, seed=1)


@pytest.fixture(scope="module")
def rotation_fit(rotation_data):
    return quick(5).fit(rotation_data)


def truth_timescale(dt=0.5):
    return dt * 2 / ROTATION.noise**2


@pytest.mark.slow
def test_a_scan_of_lags_finds_the_exact_timescale(rotation_fit, rotation_data):
    scan = rotation_fit.scan_lags(rotation_data, [1, 2, 4])
    assert scan.refit == 0
    truth = truth_timescale()
    assert (scan.timescales_lower[:, 1] < truth).all()
    assert (scan.timescales_upper[:, 1] > truth).all()
    assert np.allclose(scan.timescales[:, 1], truth, rtol=0.1)
    assert np.allclose(scan.lag_time, [0.5, 1, 2])
    assert scan.timescales.attrs["units"] == scan.time_unit == "step"
    assert scan.recommended_lag == 1  # Markovian from the first lag on
    sigma = ROTATION.spectrum(lag=4, n_modes=3).singular_values
    assert np.allclose(scan.canonical_singular_values[2, :3], sigma, atol=0.05)


@pytest.mark.slow
def test_a_scan_that_fits_anew_agrees_and_leaves_the_estimator_alone(rotation_fit, rotation_data):
    before = rotation_fit.model_
    scan = rotation_fit.scan_lags(rotation_data, [1, 3], refit=True, n_resamples=50)
    assert rotation_fit.model_ is before
    assert rotation_fit.lag == 1
    assert scan.refit == 1
    assert np.allclose(scan.timescales[:, 1], truth_timescale(), rtol=0.15)


def test_the_units_of_the_fit_hold_for_data_without_units(rotation_fit, rotation_data):
    labelled = rotation_fit.scan_lags(rotation_data, [1, 2], n_resamples=20)
    bare = rotation_fit.scan_lags(list(rotation_data.values), [1, 2], n_resamples=20)
    assert np.allclose(labelled.timescales, bare.timescales, equal_nan=True)
    assert np.allclose(labelled.timescales_upper, bare.timescales_upper, equal_nan=True)
    assert (bare.dt, bare.time_unit) == (0.5, "step")


def test_a_hidden_process_asks_for_a_longer_lag():
    assert _plateau(np.array([[1.0, 2.0], [3.0, 4.0], [3.5, 5.0], [3.9, 6.0]])) == 1
    assert _plateau(np.array([[1.0, 2.0], [3.0, 4.0]])) == 1
    assert _plateau(np.array([[1.0, 9.0], [3.0, np.inf]])) == 0
    assert _plateau(np.array([[np.nan, np.nan], [1.0, 2.0]])) == 1


def test_scans_of_impossible_lags_are_refused(rotation_fit, rotation_data):
    for lags in ([], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="lags must be an increasing list of frames"):
            scan_lags(rotation_fit, rotation_data, lags)
    with pytest.raises(ValueError, match="lag must be an integer number of frames, at least 1; got 0"):
        scan_lags(rotation_fit, rotation_data, [0, 1])
    x = torch.zeros(10, 2)
    with pytest.raises(ValueError, match="X must be trajectories to scan lags; explicit pairs have one lag only"):
        scan_lags(rotation_fit, (x, x), [1])
    with pytest.raises(ValueError, match="lag=2000 needs trajectories of more than 2000 frames"):
        scan_lags(rotation_fit, rotation_data, [2000])
    with pytest.raises(ValueError, match=r"pairs.* lag|lag.* pairs"):
        scan_lags(rotation_fit, rotation_fit.pairs_, [1, 2])
