"""What is looked at in a part of very many pairs says the same as all; what is counted is counted in all."""

import dask.array as da
import numpy as np
import pytest
import torch

import koopman_lora.data.health as health_module
import koopman_lora.scores as scores_module
import koopman_lora.survey as survey_module
from koopman_lora._linalg import WhitenedSVD
from koopman_lora.accumulation import moments_by_block
from koopman_lora.data.health import data_health
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.scores import Validation
from koopman_lora.survey import survey, transitions_seen


def correlated(n, d=2, seed=0, memory=0.9):
    noise = np.random.default_rng(seed).normal(size=(n, d))
    states = np.empty((n, d))
    states[0] = noise[0]
    for t in range(1, n):
        states[t] = memory * states[t - 1] + noise[t]
    return states


SERIES = [correlated(n, seed=n) for n in (30_000, 9_000, 21_000)]


def test_a_spread_has_stretches_of_neighbours_from_everywhere():
    pairs = lagged_pairs(SERIES, 3)
    some = pairs.spread(6400)
    assert len(some) == 6400
    assert np.bincount(some.trajectory).tolist() == pytest.approx([3200, 960, 2240], abs=110)
    assert np.count_nonzero(np.diff(some.frame) == 1) >= 6400 - 64 - 3
    assert torch.equal(some.x_next[5], pairs.x_next[5])
    assert pairs.spread(len(pairs)) is pairs


def test_pairs_in_memory_are_the_same_pairs():
    lazy = lagged_pairs([da.from_array(s, chunks=(5000, 2)) for s in SERIES], 3)
    held = lazy.in_memory()
    assert held.in_memory() is held
    assert held.fingerprint() == lazy.fingerprint()
    assert held.frame.tolist() == lazy.frame.tolist()


def test_health_of_a_part_is_that_of_all(monkeypatch):
    whole = data_health(SERIES, lag=3)
    monkeypatch.setattr(health_module, "_LOOKED_AT", 16_000)
    part = data_health(SERIES, lag=3)
    for name in ("n_frames", "n_pairs", "n_trajectories", "shortest_trajectory", "mean_trajectory"):
        assert part.attrs[name] == whole.attrs[name], name
    np.testing.assert_allclose(part["deviation"], whole["deviation"], rtol=0.1)
    np.testing.assert_allclose(part["autocorrelation_time"], whole["autocorrelation_time"], rtol=0.3)
    np.testing.assert_allclose(part["effective_samples"], whole["effective_samples"], rtol=0.3)


def test_transitions_are_counted_in_all_of_very_many_pairs(monkeypatch):
    pairs = lagged_pairs(SERIES, 3)

    def phi(x):
        return np.concatenate([np.ones((len(x), 1)), x.numpy()], axis=1)

    expected = transitions_seen(phi(pairs.x), pairs.trajectory)
    monkeypatch.setattr(survey_module, "_LOOKED_AT", 16_000)
    monkeypatch.setattr(survey_module, "BATCH", 777)
    found = survey(phi, phi, pairs).transitions
    assert found[0] == 0
    assert min(expected[1:]) > 1000
    np.testing.assert_allclose(found, expected, rtol=0.03)  # the levels of the ends are those of a part


def test_ends_of_batches_are_no_ends_of_counting():
    values = np.random.default_rng(3).normal(size=(500, 3)).cumsum(0)
    trajectory = np.repeat([0, 1], [300, 200])
    ends = survey_module.Ends.of(values)
    for start in range(0, 500, 37):
        ends.add(values[start : start + 37], trajectory[start : start + 37])
    assert ends.transitions.tolist() == transitions_seen(values, trajectory).tolist()


def test_a_validation_keeps_functions_at_some_of_very_many_pairs(monkeypatch):
    pairs = lagged_pairs(SERIES, 3)
    solution = WhitenedSVD(np.eye(2), np.ones(2), np.eye(2))
    monkeypatch.setattr(scores_module, "_KEPT", 2 * 12_800)
    found = Validation.of_solution(solution, (lambda x: x, lambda x: x), pairs)
    assert len(found.phi) == len(found.psi) == found.moments.n_pairs == 12_800
    everywhere = moments_by_block(lambda x: x, lambda x: x, pairs, np.zeros(len(pairs)))
    np.testing.assert_allclose(found.moments.T_fg, everywhere.T_fg, rtol=0.1, atol=0.3)
