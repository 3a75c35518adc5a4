"""Variational scores of a singular value decomposition on held-out moments; the constant mode counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import RANK_TOLERANCE, conjugate_transpose, whitened_svd
from koopman_lora.moments import Moments


class Scores(NamedTuple):
    """VAMP-1, VAMP-2 and VAMP-E of held-out pairs, the constant mode included."""

    vamp_1: float
    vamp_2: float
    vamp_e: float


def vamp_scores(train: Moments, test: Moments, n_modes: int | None = None, threshold: float = RANK_TOLERANCE) -> Scores:
    """Score the singular triples of `train` on the moments of `test`.

    Parameters
    ----------
    train, test : moments of the same features on pairs that share no frame
    n_modes : score only the leading modes
    threshold : whitening threshold of the training moments

    References
    ----------
    MATH.md, section 6; Wu and Noe (2020).

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(0, 1, 100)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, x))
    >>> [round(score, 6) for score in vamp_scores(m, m)]
    [1.0, 1.0, 1.0]
    """
    left, sigma, right = whitened_svd(train.M_f, train.T_fg, train.M_g, threshold, n_modes)
    C00 = conjugate_transpose(left) @ test.M_f @ left
    C11 = conjugate_transpose(right) @ test.M_g @ right
    C01 = conjugate_transpose(left) @ test.T_fg @ right
    values = whitened_svd(C00, C01, C11).values
    return Scores(float(values.sum()), float(np.sum(values**2)), vamp_e(sigma, C00, C01, C11))


def vamp_e(sigma: np.ndarray, C00: np.ndarray, C01: np.ndarray, C11: np.ndarray) -> float:
    """`2 Re tr(S C01) - tr(S C00 S C11)`: minus the held-out error of the operator, up to a constant.

    C01 is E[phi^H psi]: its trace with S needs no transpose.

    Examples
    --------
    >>> vamp_e(np.array([0.5]), np.eye(1), np.array([[0.5]]), np.eye(1))
    0.25
    """
    linear = 2 * np.real(np.sum(sigma * np.diag(C01)))
    return float(linear - np.real(np.sum(sigma[:, None] * C00 * sigma * C11.T)))
