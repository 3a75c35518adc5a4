import dataclasses
import re

import numpy as np
import pytest

from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.findings import overfit_findings, training_findings
from koopman_lora.moments import Moments
from koopman_lora.scores import Validation
from koopman_lora.systems import NoisyRotation


def findings_of(M_f, svals=None, batch_size=None):
    M = np.asarray(M_f, dtype=float)[None]
    return {f.name: f.message for f in training_findings(Moments({"M_f": M, "M_g": M}, np.ones(1)), svals, batch_size)}


def test_nothing_to_say_about_orthonormal_features():
    assert findings_of(np.eye(5), np.array([1, 0.8, 0.5, 0.3, 0.05]), 256) == {}


def test_low_rank_is_found():
    shared = 0.95 * np.ones((5, 5)) + 0.05 * np.eye(5)
    found = findings_of(shared)
    assert set(found) == {"low rank"}
    assert "5 modes span only 1.1 dimensions" in found["low rank"]
    assert "reg_weight=0.1" in found["low rank"]


def test_duplicate_modes_are_named():
    M = np.eye(5)
    M[1, 3] = M[3, 1] = 0.995
    found = findings_of(M)
    assert set(found) == {"duplicate modes"}
    assert "modes 2 and 4 are the same function" in found["duplicate modes"]


def test_duplicates_are_named_by_their_own_number_behind_modes_that_do_not_matter():
    M = np.eye(5)
    M[2, 4] = M[4, 2] = 0.995
    found = findings_of(M, np.array([1, 0.05, 0.8, 0.7, 0.6]))
    assert "modes 3 and 5 are the same function" in found["duplicate modes"]
    assert "duplicate modes" not in findings_of(M, np.array([1, 0.8, 0.05, 0.7, 0.06]))


def test_saturated_svals_are_named_but_not_the_constant():
    found = findings_of(np.eye(4), np.array([1.0, 0.99999, 0.5, 1e-4]))
    assert set(found) == {"saturated svals"}
    assert "svals of modes 2, 4 are saturated" in found["saturated svals"]


def test_a_small_batch_is_found():
    found = findings_of(np.eye(8), batch_size=12)
    assert set(found) == {"small batch"}
    assert "batch_size=12 is small for 8 modes; use at least 32" in found["small batch"]
    assert findings_of(np.eye(8), batch_size=32) == {}


def correlated(*by_block):
    """Moments of orthonormal functions whose correlations in each block are these."""
    ones = np.stack([np.eye(len(by_block[0]))] * len(by_block))
    return Moments({"M_f": ones, "M_g": ones, "T_fg": np.stack([np.diag(row) for row in by_block])}, np.ones(len(ones)))


@pytest.mark.parametrize(
    ("held", "of_folds", "told"),
    [
        ([[1, 0.8, 0.5], [1, 0.8, 0.5]], [1, 0.8, 0.5], None),
        ([[1, 0.8, 0.5], [1, 0.8, 0.5]], None, None),
        # two blocks of held-out pairs that differ by as much as their mean does from the fit: chance
        ([[1, 0.8, 0.5], [1, 0.8, 0.2]], [1, 0.8, 0.5], None),
        ([[1, 0.8, 0.32], [1, 0.8, 0.32]], [1, 0.8, 0.5], "canonical values 0.50 of mode 3 may be too high.* are 0.32"),
        ([[1, 0.8, 0.32], [1, 0.8, 0.32]], None, "canonical values 0.50 of mode 3 may be too high.* are 0.32"),
        # what held-out pairs, which are few, leave open
        ([[1, 0.8, 0.5], [1, 0.8, 0.2]], [1, 0.8, 0.35], "canonical values 0.50 of mode 3 may be too high.* are 0.35"),
        # little in each of them, and all in the same direction
        ([[1, 0.73, 0.43], [1, 0.73, 0.43]], [1, 0.73, 0.43], "canonical values 0.80, 0.50 of modes 2, 3"),
        ([[1, -0.1, -0.3], [1, -0.1, -0.3]], [1, 0.0, 0.0], "canonical values 0.80, 0.50 of modes 2, 3"),
    ],
)
def test_over_fitting_is_told_by_folds_or_by_held_out_pairs_beyond_their_error(held, of_folds, told):
    functions = np.ones((2, 3))
    validation = Validation(np.array([1, 0.8, 0.5]), correlated(*held), functions, functions)
    validation = dataclasses.replace(validation, of_folds=None if of_folds is None else np.array(of_folds))
    found = overfit_findings(correlated([1, 0.8, 0.5]), validation)
    assert [finding.name for finding in found] == ([] if told is None else ["over-fit"])
    assert told is None or re.search(told, found[0].message)


@pytest.mark.slow
def test_a_fit_that_predicts_nothing_says_so_when_it_ends():
    noise = np.random.default_rng(0).normal(size=(400, 3))
    with pytest.warns(UserWarning, match=r"held-out VAMP-E .* is not above 1, that of the constant"):
        estimator = KoopmanLoRA(n_modes=4, hidden_dims=(16,), n_epochs=5, refine=False).fit(noise)
    assert "no better than the constant" in [finding.name for finding in estimator.findings_]
    good = KoopmanLoRA(n_modes=3, hidden_dims=(16,), n_epochs=5).fit(NoisyRotation().simulate(n_steps=800, seed=0))
    assert "no better than the constant" not in [finding.name for finding in good.findings_]
