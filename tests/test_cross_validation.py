import numpy as np
import pytest

import koopman_lora as kl
from koopman_lora.cross_validation import cross_validate
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.systems import NoisyRotation

ROTATION = NoisyRotation(omega=0.5, noise=0.5)  # sigma 1, .882, .882, .607, .607, .325, .325, ...


def quick(n_modes, **options):
    return kl.KoopmanLoRA(n_modes=n_modes, **({"hidden_dims": (32, 32), "n_epochs": 6} | options))


class Recorder(kl.KoopmanLoRA):
    """Remembers the pairs of every fit and of every evaluation."""

    trained_on, evaluated = [], []

    def fit(self, X, y=None):
        Recorder.trained_on.append(X)
        return super().fit(X)

    def estimate_moments(self, X, observables=None):
        Recorder.evaluated.append(X)
        return super().estimate_moments(X, observables)


def frames(pairs):
    return {(t, f + d) for t, f in zip(pairs.trajectory, pairs.frame, strict=True) for d in (0, pairs.clock.lag)}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["blocks", "trajectory"])
def test_folds_share_no_frame_and_hold_out_every_pair_once(by):
    Recorder.trained_on, Recorder.evaluated = [], []
    trajectories = ROTATION.simulate(n_trajectories=4, n_steps=150, seed=0)
    estimator = Recorder(n_modes=3, lag=2, hidden_dims=(8,), n_epochs=1)
    result = cross_validate(estimator, trajectories, n_folds=4, by=by)
    assert not hasattr(estimator, "analysis_")
    held = [e for e in Recorder.evaluated if not any(e is f for f in Recorder.trained_on)]
    assert len(held) == len(Recorder.trained_on) == 4
    for train, test in zip(Recorder.trained_on, held, strict=True):
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


@pytest.mark.slow
def test_folds_of_pairs_of_unknown_lag_are_refused():
    x = np.random.default_rng(0).normal(size=(101, 2))
    with pytest.raises(ValueError, match=r"the lag of these pairs is unknown, .* share no frame"):
        cross_validate(quick(3), (x[:-1], x[1:]), n_folds=2)
    estimator = quick(2, lag=1, hidden_dims=(4,), n_epochs=1, batch_size=32)
    assert cross_validate(estimator, (x[:-1], x[1:]), n_folds=2).n_folds == 2


@pytest.mark.slow
def test_folds_count_from_one():
    pairs = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=400, seed=0))
    estimator = quick(2, hidden_dims=(4,), n_epochs=1)
    result = cross_validate(estimator, pairs, n_folds=3, seed=1)
    assert result.fold.values.tolist() == [1, 2, 3]
    assert (result.n_folds, result.seed, result.by) == (3, 1, "auto")
