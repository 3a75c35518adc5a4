"""Options that make no sense are refused by name."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from koopman_lora.svd.neural_svd import NeuralSVD

GOOD = np.eye(4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_modes": 4}, r"n_modes must be at most min\(M, N\)=3"),
        ({"n_modes": 0}, "n_modes must be an integer of at least 1"),
        ({"n_modes": 1.5}, "n_modes must be an integer"),
        ({"energy": 0.0}, r"energy must be in \(0, 1\]"),
        ({"energy": 1.1}, r"energy must be in \(0, 1\]"),
        ({"energy": 0.9, "n_modes": 2}, "not both"),
        ({"orthogonality": "cayley"}, "orthogonality must be one of 'bjorck'"),
        ({"parametrization": "one_hot"}, "parametrization must be one of"),
        ({"phase": "min"}, "phase must be one of"),
        ({"phase": "reference"}, "needs reference"),
        ({"phase": "reference", "reference": np.ones((2, 1)), "n_modes": 1}, "reference must have shape"),
        ({"lam": 0}, "lam must be positive"),
        ({"tolerance": -1}, "tolerance must be positive"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1"),
        ({"oversampling": -1}, "oversampling must be an integer of at least 0"),
        ({"polish_steps": -1}, "polish_steps must be an integer of at least 0"),
        ({"sample": (5, 1)}, "sample must be"),
        ({"sample": (1, 1, 1)}, "sample must be"),
        ({"hidden_dims": (0,)}, "hidden_dims must be positive"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"parametrization": "features"}, "needs row_features or column_features"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralSVD(**options).fit(GOOD)


def test_sample_needs_entries():
    with pytest.raises(ValueError, match="sample needs entries"):
        NeuralSVD(sample=(1, 1)).fit(aslinearoperator(GOOD))
