"""The span of several fits together: what one network was too small, or too shortly trained, to hold.

Its functions were fitted to the same data, so that a span of many over-fits: how it does is measured block by block,
with functions of those fits alone that never saw the block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora._linalg import WhitenedSVD
from koopman_lora.accumulation import moments_by_block
from koopman_lora.data.groups import without_overlap
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, FeatureMap, Moments
from koopman_lora.normalisation import prepend_constant
from koopman_lora.ritz_choice import ritz_triples
from koopman_lora.scores import jackknife_error

# Functions taken together at most: enough for what one fit lacks, few enough for moments per block.
MOST_FUNCTIONS = 256
# Damping of what the fits have beyond the first: a direction of that relative variance counts `sqrt(1 / 2)`.
THRESHOLDS = tuple(10.0**-e for e in range(9))
# Standard errors by which the functions of all fits must beat those of one on blocks that neither saw.
ERRORS_BEYOND_ONE = 2.0
MOMENTS = (*CROSS, "T_ff", "C_gf")


@dataclasses.dataclass(frozen=True, eq=False)
class Fits:
    """Models of several fits, the first to all of the data, and which blocks the others saw.

    Attributes
    ----------
    models : with the constant mode
    saw : mask (n_models, n_blocks)
    block : number (n_pairs,) of each pair's block
    """

    models: Sequence[KoopmanLoRAModel]
    saw: np.ndarray
    block: np.ndarray

    @property
    def n_modes(self) -> int:
        """Number of modes of each."""
        return self.models[0].n_modes

    def at_most(self, n_functions: int) -> Fits:
        """As many of the fits as have so many functions together; three at least, with any number."""
        n = max(3, n_functions // (self.n_modes - 1))
        return Fits(self.models[:n], self.saw[:n], self.block)

    def columns(self, which: np.ndarray) -> np.ndarray:
        """Positions of the functions of some fits, given by mask, among those of `maps`, the constant before them."""
        return np.flatnonzero(np.r_[True, np.repeat(which, self.n_modes - 1)])

    def maps(self) -> tuple[FeatureMap, FeatureMap]:
        """The constant and the functions of all fits, for f and for g; where f and g are one map, for f twice."""
        f = _side_by_side([model.f for model in self.models])
        return f, f if self.models[0].is_reversible else _side_by_side([model.g for model in self.models])


def _side_by_side(maps: Sequence[FeatureMap]) -> FeatureMap:
    def functions(x: Tensor) -> Tensor:
        with torch.no_grad():
            return prepend_constant(torch.cat([encode(x)[:, 1:] for encode in maps], dim=1))

    return functions


def joint_moments(fits: Fits, pairs: LaggedPairs) -> tuple[Moments, Moments] | None:
    """Moments of the best singular functions in the span of half of the fits, and of all; None if not known better.

    How far the two are apart says how far the span of all may still be from what more fits would find. What the other
    fits have beyond the first is damped as in `refine`; the threshold, and whether to take any of it, is chosen by the
    correlations of left and right functions at pairs of a block that share no frame with other blocks.
    """
    if pairs.clock.lag is None:  # nor is known which pairs share a frame
        return None
    fits = fits.at_most(MOST_FUNCTIONS)
    inside = np.zeros(len(pairs), dtype=bool)
    for number in np.unique(fits.block):
        is_here = fits.block == number
        inside |= is_here & without_overlap(pairs, ~is_here)
    cell = 2 * fits.block + inside
    moments, cells = moments_by_block(*fits.maps(), pairs, cell, names=MOMENTS), np.unique(cell)
    threshold = _best_threshold(fits, moments, cells // 2, cells % 2 == 1)
    if threshold is None:
        return None
    moments, number = moments.merged(np.zeros(len(cells))), np.arange(len(fits.models))
    half, everyone = (
        _solved_in_part(fits, moments, number <= last, threshold) for last in (number[-1] // 2, number[-1])
    )
    return half, everyone


def _solved_in_part(fits: Fits, moments: Moments, which: np.ndarray, threshold: float) -> Moments:
    """Moments of the singular functions in the span of some fits, the first of which counts in full."""
    columns = fits.columns(which)
    own = np.eye(len(columns) - 1, fits.n_modes - 1)
    matrices, is_reversible = _matrices(moments, columns), moments.is_reversible
    triples = ritz_triples(matrices, (own, own), np.array([threshold]), fits.n_modes, is_reversible)[0]
    place = np.eye(moments.M_f.shape[-1])[:, columns]
    return moments.transformed(place @ triples.left, place @ triples.right)


def _best_threshold(fits: Fits, moments: Moments, block: np.ndarray, inside: np.ndarray) -> float | None:
    """Threshold with the highest held-out score, None where one fit alone has it within its standard errors."""
    sums = [_sums(fits, moments, block, inside, number) for number in np.unique(block[inside])]
    if len(sums) < 2:
        return None
    table = np.array(sums)  # (block, 1 + threshold, moment, mode)
    without = table.sum(axis=0) - table
    scores, leaving_out = _score(table.sum(axis=0)), _score(without)  # (1 + threshold), (block, 1 + threshold)
    best = 1 + int(scores[1:].argmax())
    error = jackknife_error(leaving_out[:, best] - leaving_out[:, 0])
    return THRESHOLDS[best - 1] if scores[best] - scores[0] > ERRORS_BEYOND_ONE * error else None


def _sums(fits: Fits, moments: Moments, block: np.ndarray, inside: np.ndarray, number: int) -> np.ndarray:
    """Sums of conj(phi) psi, |phi|^2, |psi|^2 inside one block, (1 + n_thresholds, 3, n_modes), of fits blind to it.

    The first row is the mean over these fits, each alone; the others are of their span.
    """
    blind = ~fits.saw[:, number]
    training, there = moments.selected(block != number), moments.selected(inside & (block == number))
    solutions = [list(_solved(fits, training, blind))]
    solutions += [[_alone(fits, training, int(i))] for i in np.flatnonzero(blind)]
    rows = [[_diagonals(there, fits.n_modes, *s) for s in several] for several in solutions]
    one = np.mean([row[0] for row in rows[1:]], axis=0)
    return there.block_counts.sum() * np.array([one, *rows[0]])


def _solved(fits: Fits, moments: Moments, which: np.ndarray) -> Iterator[tuple[WhitenedSVD, np.ndarray]]:
    """Triples in the span of some fits, all of it damped, for every threshold; and the columns that they are on."""
    columns = fits.columns(which)
    matrices = _matrices(moments, columns)
    nothing = np.zeros((len(columns) - 1, 0))
    is_reversible = moments.is_reversible
    for triples in ritz_triples(matrices, (nothing, nothing), np.array(THRESHOLDS), fits.n_modes, is_reversible):
        yield triples, columns


def _alone(fits: Fits, moments: Moments, i: int) -> tuple[WhitenedSVD, np.ndarray]:
    """Triples in the span of one fit."""
    columns = fits.columns(np.arange(len(fits.models)) == i)
    matrices = _matrices(moments, columns)
    own = np.eye(len(columns) - 1)
    infinite = np.array([np.inf])
    return ritz_triples(matrices, (own, own), infinite, fits.n_modes, moments.is_reversible)[0], columns


def _diagonals(there: Moments, n_modes: int, triples: WhitenedSVD, columns: np.ndarray) -> np.ndarray:
    """E[conj(phi) psi], E[|phi|^2] and E[|psi|^2], (3, n_modes); 0 for modes that a small span does not have."""
    M_f, T, M_g = _matrices(there, columns)
    left, right = triples.left, triples.right
    pairs = ((left, T, right), (left, M_f, left), (right, M_g, right))
    found = np.array([np.real(np.sum(np.conj(a) * (M @ b), axis=0)) for a, M, b in pairs])
    return np.pad(found, ((0, 0), (0, n_modes - found.shape[1])))


def _score(sums: np.ndarray) -> np.ndarray:
    """Sum of squared correlations, of those above 0, from `sums` (..., 3, n_modes)."""
    T, M_f, M_g = np.moveaxis(sums, -2, 0)
    correlation = T / np.sqrt(np.maximum(M_f * M_g, np.finfo(float).tiny))
    return np.sum(np.maximum(correlation, 0.0) ** 2, axis=-1)


def _matrices(moments: Moments, columns: Any = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M_f, T_fg, M_g, of the functions at some columns."""
    M_f, T, M_g = (M[columns][:, columns] for M in (moments.M_f, moments.T_fg, moments.M_g))
    return M_f, T, M_g
