"""Variational scores of a singular value decomposition on held-out moments; the constant mode counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD, conjugate_transpose, whitened_svd
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.moments import Moments


class Scores(NamedTuple):
    """VAMP-1, VAMP-2 and VAMP-E of held-out pairs, the constant mode included."""

    vamp_1: float
    vamp_2: float
    vamp_e: float


class Validation(NamedTuple):
    """Singular functions fitted on training pairs alone, at held-out pairs: what honest scores are made of.

    Attributes
    ----------
    sigma : canonical singular values of the training pairs (n_modes,), upward biased
    phi, psi : functions at the held-out pairs, phi(x) and psi(x'), (n_pairs, n_modes) each
    pairs : the held-out pairs
    """

    sigma: np.ndarray
    phi: np.ndarray
    psi: np.ndarray
    pairs: LaggedPairs


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
    there = test.transformed(left, right)
    values = whitened_svd(there.M_f, there.T_fg, there.M_g).values
    return Scores(float(values.sum()), float(np.sum(values**2)), vamp_e(sigma, there.M_f, there.T_fg, there.M_g))


def triples_vamp_e(triples: WhitenedSVD, test: Moments) -> float:
    """VAMP-E of singular triples, given as coefficients on features, at held-out moments of these features.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> moments = Moments({"M_f": one[None], "T_fg": one[None] / 2, "M_g": one[None]}, np.array([1]))
    >>> triples_vamp_e(WhitenedSVD(one, np.array([0.5]), one), moments)
    0.25
    """
    there = test.transformed(triples.left, triples.right)
    return vamp_e(triples.values, there.M_f, there.T_fg, there.M_g)


def vamp_e_leaving_out(
    train: Moments, test: Moments, n_modes: int | None = None, threshold: float = RANK_TOLERANCE
) -> np.ndarray:
    """Held-out VAMP-E with each block of `test` left out in turn, (n_blocks,): what a paired jackknife needs."""
    left, sigma, right = whitened_svd(train.M_f, train.T_fg, train.M_g, threshold, n_modes)
    rest = test.reweighted(1.0 - np.eye(test.n_blocks))
    C00 = conjugate_transpose(left) @ rest["M_f"] @ left
    C11 = conjugate_transpose(right) @ rest["M_g"] @ right
    C01 = conjugate_transpose(left) @ rest["T_fg"] @ right
    return np.array([vamp_e(sigma, *blocks) for blocks in zip(C00, C01, C11, strict=True)])


def jackknife_error(leaving_out: np.ndarray) -> np.ndarray:
    """Standard error from values that leave out one block each, along the first axis.

    Examples
    --------
    >>> float(jackknife_error(np.array([1.0, 1.0, 1.0])))
    0.0
    """
    n = len(leaving_out)
    return np.sqrt((n - 1) / n * np.sum((leaving_out - leaving_out.mean(axis=0)) ** 2, axis=0))


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


def validation_scores(validation: Validation) -> Scores:
    """Score singular functions that were fitted on training pairs, at held-out pairs.

    Examples
    --------
    >>> one = np.ones((4, 1))
    >>> validation_scores(Validation(np.ones(1), one, one, None))
    Scores(vamp_1=1.0, vamp_2=1.0, vamp_e=1.0)
    """
    sigma, phi, psi, _ = validation
    C00, C01, C11 = (np.conj(a.T) @ b / len(a) for a, b in ((phi, phi), (phi, psi), (psi, psi)))
    values = whitened_svd(C00, C01, C11).values
    return Scores(float(values.sum()), float(np.sum(values**2)), vamp_e(sigma, C00, C01, C11))


def validation_sigma(validation: Validation) -> np.ndarray:
    """Held-out correlation of each pair of singular functions, (n_modes,): free of the upward bias of fitting.

    Examples
    --------
    >>> one = np.ones((4, 1))
    >>> validation_sigma(Validation(np.ones(1), one, -one, None))
    array([-1.])
    """
    _, phi, psi, _ = validation
    norms = np.mean(np.abs(phi) ** 2, axis=0) * np.mean(np.abs(psi) ** 2, axis=0)
    return np.real(np.mean(np.conj(phi) * psi, axis=0)) / np.sqrt(np.maximum(norms, np.finfo(float).tiny))
