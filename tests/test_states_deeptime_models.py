"""The macroscopic model gives the same numbers in deeptime."""

import builtins

import numpy as np
import pytest
from exact_expectations import BLOCKS, exact_chain_moments

from koopman_lora.clock import Clock
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.deeptime_models import to_deeptime


@pytest.fixture(scope="module")
def model():
    return macroscopic_model(exact_chain_moments(BLOCKS, np.eye(3)[BLOCKS.blocks], Clock(3)))


def test_markov_model_gives_the_same_numbers(model):
    pytest.importorskip("deeptime")
    msm = to_deeptime(model)
    np.testing.assert_allclose(msm.timescales(), model.timescales[1:], rtol=1e-8)
    np.testing.assert_allclose(msm.mfpt(0, 2), model.mean_first_passage_times[0, 2], rtol=1e-8)
    assert msm.lagtime == 3
    np.testing.assert_allclose(msm.count_model.count_matrix, model.counts)


def test_memberships_give_a_pcca_model(model):
    pytest.importorskip("deeptime")
    chi = np.eye(3)[BLOCKS.blocks]
    pcca = to_deeptime(model, chi, BLOCKS.stationary_distribution)
    np.testing.assert_array_equal(pcca.assignments, BLOCKS.blocks)
    np.testing.assert_allclose(pcca.metastable_distributions.sum(axis=1), 1)
    with pytest.raises(ValueError, match=r"memberships must have shape \(n_microstates, 3\); got \(12, 12\)"):
        to_deeptime(model, np.eye(12))


def test_a_model_of_an_unknown_lag_is_refused():
    pytest.importorskip("deeptime")
    bare = macroscopic_model(exact_chain_moments(BLOCKS, np.eye(3)[BLOCKS.blocks]))
    with pytest.raises(ValueError, match="lag of these pairs is unknown, and is needed for deeptime's models"):
        to_deeptime(bare)


def test_absent_deeptime_names_the_extra(model, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("deeptime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"koopman-lora\[deeptime\]"):
        to_deeptime(model)
