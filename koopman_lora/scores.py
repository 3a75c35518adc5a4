"""Variational scores of singular functions on held-out moments; the constant mode counts."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import labelled, provenance
from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD
from koopman_lora.checks import checked
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.kinds import Count, Share
from koopman_lora.loss_terms import lora_terms
from koopman_lora.moment_names import n_features
from koopman_lora.moments import FeatureMap, Moments, OneEstimate
from koopman_lora.triples import canonical_triples, in_one_block, independent_basis

# Blocks of the held-out pairs: their jackknife tells noise from difference.
VALIDATION_BLOCKS = 32
# Parts that training pairs are cut into: what four say is judged by the fifth, each in turn.
N_FOLDS = 5
# Values of functions of one side that are kept: more held-out pairs than these are for are not needed to judge them.
_KEPT = 2**22


class Scores(NamedTuple):
    """VAMP-1, VAMP-2 and VAMP-E of held-out pairs, the constant mode included."""

    vamp_1: float
    vamp_2: float
    vamp_e: float


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """Singular functions fitted on training pairs alone, on held-out pairs: what honest scores are made of.

    Attributes
    ----------
    sigma : canonical singular values of the training pairs (n_modes,), upward biased
    moments : M_f, M_g, T_fg of the functions phi(x) and psi(x') over the held-out pairs, per block
    phi, psi : the functions themselves at the held-out pairs, (n_pairs, n_modes) each, in the order of time; only the
        test of `select_n_modes` that re-matches x and x' reads them
    weights : how much each held-out pair counts (n_pairs,); None where all count alike
    of_folds : correlations (n_modes,) at folds of the training pairs, see `correlations_of_folds`; None where unknown
    """

    sigma: np.ndarray
    moments: Moments
    phi: np.ndarray
    psi: np.ndarray
    weights: np.ndarray | None = None
    of_folds: np.ndarray | None = None

    @classmethod
    def of_functions(
        cls,
        sigma: np.ndarray,
        phi: np.ndarray,
        psi: np.ndarray,
        pairs: LaggedPairs,
        backward: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Validation:
        """Validation from the values of the functions at the held-out pairs, phi(x) and psi(x').

        Parameters
        ----------
        backward : phi(x') and psi(x), of pairs that count both ways
        """
        cuts, weights = np.flatnonzero(np.diff(block_numbers(pairs, VALIDATION_BLOCKS))) + 1, pairs.weights
        sums = _sums_by_block(phi, psi, cuts, weights)
        if backward is not None:
            again = _sums_by_block(*backward, cuts, weights)
            sums = {name: (there + again[name]) / 2 for name, there in sums.items()}
        counts, of_pairs = np.diff([0, *cuts, len(phi)]).astype(float), None
        if weights is not None:
            of_pairs = np.stack([counts, np.add.reduceat(weights**2, [0, *cuts])], axis=-1)
            counts = np.add.reduceat(weights, [0, *cuts])
        is_reversible = backward is not None
        moments = Moments(sums, counts, pairs.clock, is_reversible=is_reversible, block_pairs=of_pairs)
        return cls(sigma, moments, phi, psi, weights)

    @classmethod
    def of_maps(cls, sigma: np.ndarray, left: FeatureMap, right: FeatureMap, pairs: LaggedPairs) -> Validation:
        """`of_functions` from maps phi and psi, (n, *state) -> array (n, n_modes); of very many pairs at some."""
        pairs = pairs.spread(max(_KEPT // len(sigma), BATCH))
        values: list[tuple[np.ndarray, ...]] = []
        for x, x_next, *_ in pairs.batches():
            backward = (left(x_next), right(x)) if pairs.is_reversible else ()
            values.append((left(x), right(x_next), *backward))
        phi, psi, *others = (np.concatenate(side) for side in zip(*values, strict=True))
        return cls.of_functions(sigma, phi, psi, pairs, (others[0], others[1]) if others else None)

    @classmethod
    def of_solution(
        cls,
        solution: WhitenedSVD,
        maps: tuple[FeatureMap, FeatureMap],
        pairs: LaggedPairs,
        of_folds: np.ndarray | None = None,
    ) -> Validation:
        """Validation of singular triples given as coefficients on feature maps, in one pass over the held-out pairs."""

        def functions(features: FeatureMap, coefficients: np.ndarray) -> FeatureMap:
            return lambda x: features(x).cpu().numpy() @ coefficients

        with torch.no_grad():
            left, right = functions(maps[0], solution.left), functions(maps[1], solution.right)
            return dataclasses.replace(cls.of_maps(solution.values, left, right, pairs), of_folds=of_folds)

    @classmethod
    def of_features(cls, training: Moments, maps: tuple[FeatureMap, FeatureMap], pairs: LaggedPairs) -> Validation:
        """Validation of the singular functions of features, from their moments over the training pairs, per block."""
        of_folds = correlations_of_folds(canonical_triples, in_folds(training))
        return cls.of_solution(canonical_triples(training), maps, pairs, of_folds)

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3f}" for value in self.sigma[:6]) + (", ..." if len(self.sigma) > 6 else "")
        return f"Validation(sigma {shown} from training; {self.moments.n_pairs} held-out pairs)"

    def scores(self) -> Scores:
        """VAMP-1, VAMP-2 and VAMP-E of the held-out pairs."""
        return _scores(self.sigma, self.moments)

    def correlations(self) -> np.ndarray:
        """Held-out correlation of each pair of singular functions, (n_modes,): free of the upward bias of fitting."""
        return correlations(self.moments)

    def left_out(self) -> np.ndarray:
        """The lower of the correlations at held-out pairs and at folds, where these are known, (n_modes,)."""
        held = self.correlations()
        return held if self.of_folds is None else np.minimum(held, self.of_folds)


def _sums_by_block(
    phi: np.ndarray, psi: np.ndarray, cuts: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Sums of products of phi and psi, each (n_pairs, n_modes), between the cuts, by the names of moments."""
    sides = {"M_f": (phi, phi), "M_g": (psi, psi), "T_fg": (phi, psi)}
    if weights is not None:
        sides = {name: (a * weights[:, None], b) for name, (a, b) in sides.items()}
    return {
        name: np.stack([np.conj(a.T) @ b for a, b in zip(*(np.split(v, cuts) for v in both), strict=True)])
        for name, both in sides.items()
    }


def _scores(sigma: np.ndarray, there: Moments) -> Scores:
    """Scores from held-out moments of singular functions."""
    values = canonical_triples(there).values
    return Scores(float(values.sum()), float(np.sum(values**2)), float(vamp_e(sigma, there)))


def vamp_e(sigma: np.ndarray, there: Moments) -> np.ndarray:
    """VAMP-E of singular functions from their held-out moments: minus the LoRA loss at `sigma`, shape (...).

    `2 Re tr(S C01) - tr(S C00 S C11)`: minus the held-out error of the operator, up to a constant.

    References
    ----------
    docs/mathematics.md, section 6.

    Examples
    --------
    >>> one = np.ones((1, 1, 1))
    >>> float(vamp_e(np.array([0.5]), Moments({"M_f": one, "T_fg": one / 2, "M_g": one}, np.array([1]))))
    0.25
    """
    return -lora_terms(there.M_f, there.T_fg, there.M_g).loss(sigma)


def vamp_e_curve(sigma: np.ndarray, there: Moments) -> np.ndarray:
    """VAMP-E of the leading 1, ..., n_modes singular functions, (..., n_modes)."""
    return -lora_terms(there.M_f, there.T_fg, there.M_g).curve(sigma)


@checked
def vamp_scores(
    train: OneEstimate, test: OneEstimate, n_modes: Count | None = None, threshold: Share = RANK_TOLERANCE
) -> Scores:
    """Score the singular triples of `train` on the moments of `test`.

    Parameters
    ----------
    train, test : moments of the same features on pairs that share no frame
    n_modes : score only the leading modes
    threshold : whitening threshold of the training moments

    References
    ----------
    docs/mathematics.md, section 6; Wu and Noe (2020).

    Examples
    --------
    >>> one = np.ones((1, 1, 1))
    >>> m = Moments({"M_f": one, "T_fg": one, "M_g": one}, np.array([1]))
    >>> vamp_scores(m, m)
    Scores(vamp_1=1.0, vamp_2=1.0, vamp_e=1.0)
    """
    check_same_features(train=train, test=test)
    basis = independent_basis(train, threshold)
    triples = canonical_triples(basis.moments(train), threshold, n_modes)
    return _scores(triples.values, basis.moments(test).transformed(triples.left, triples.right))


def check_same_features(**moments: Moments) -> None:
    """Raise a ValueError unless all are moments of as many features.

    Examples
    --------
    >>> one, two = (Moments({"M_f": np.ones((1, k, k))}, np.array([1])) for k in (1, 2))
    >>> check_same_features(train=one, test=two)
    Traceback (most recent call last):
    ValueError: train and test must be moments of the same features; got {'f': 1} and {'f': 2}.
    """
    sizes = [{side: k for side in "fg" if (k := n_features(side, m.block_sums, m.shifts))} for m in moments.values()]
    if any(size[side] != other[side] for size in sizes for other in sizes for side in size.keys() & other.keys()):
        got = " and ".join(map(str, sizes))
        raise ValueError(f"{' and '.join(moments)} must be moments of the same features; got {got}.")


def span_vamp_2(test: Moments) -> np.ndarray:
    """VAMP-2 of the span of features at held-out moments, (...): how much can be predicted within it.

    On few pairs the value is too high (it whitens there), but alike for spans of one dimension: good to compare them.
    VAMP-E would judge the functions' scale as well, which on metastable data held-out pairs do not know: their
    populations are others.
    """
    return np.sum(canonical_triples(test).values ** 2, axis=-1)


def jackknife_error(leaving_out: np.ndarray) -> np.ndarray:
    """Standard error from values that leave out one block each, along the first axis.

    Examples
    --------
    >>> float(jackknife_error(np.array([1.0, 1.0, 1.0])))
    0.0
    """
    n = len(leaving_out)
    return np.sqrt((n - 1) / n * np.sum((leaving_out - leaving_out.mean(axis=0)) ** 2, axis=0))


def correlations(moments: Moments) -> np.ndarray:
    """Real correlation E[conj(f_i) g_i] / (|f_i| |g_i|) of each pair of features, (..., n_modes)."""
    T, M_f, M_g = (np.real(np.diagonal(M, 0, -2, -1)) for M in (moments.T_fg, moments.M_f, moments.M_g))
    return T / np.sqrt(np.maximum(M_f * M_g, np.finfo(float).tiny))


def in_folds(moments: Moments) -> Moments:
    """Blocks dealt out in turn, so that every fold has parts from everywhere: a block for each of `N_FOLDS`.

    Examples
    --------
    >>> in_folds(Moments({"M_f": np.ones((7, 1, 1))}, np.ones(7))).block_counts
    array([2., 2., 1., 1., 1.])
    """
    return moments.merged(np.arange(moments.n_blocks) % N_FOLDS)


def each_in_turn(folds: Moments) -> Iterator[tuple[Moments, Moments]]:
    """Moments of each fold, a block, as judge, after those of all others together: (others, judge).

    Examples
    --------
    >>> folds = Moments({"M_f": np.ones((3, 1, 1))}, np.array([1, 2, 1]))
    >>> [(others.n_pairs, judge.n_pairs) for others, judge in each_in_turn(folds)]
    [(3, 1), (2, 2), (3, 1)]
    """
    for fold in range(folds.n_blocks):
        is_judge = np.arange(folds.n_blocks) == fold
        yield in_one_block(folds.selected(~is_judge)), folds.selected(is_judge)


def correlations_of_folds(solve: Callable[[Moments], WhitenedSVD], folds: Moments) -> np.ndarray | None:
    """Correlations (n_modes,), over all folds, of functions that were solved from the others; None of a single fold.

    All training pairs judge, so that these have less noise than those of the held-out ones. But networks have seen
    these pairs: what they remember is not found here.

    Parameters
    ----------
    solve : moments -> singular triples as coefficients on the features
    folds : moments of the same features, a block for each fold

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 3, 2))
    >>> at = {"M_f": (0, 0), "T_fg": (0, 1), "M_g": (1, 1)}  # pairs that have nothing in common
    >>> sums = {n: np.einsum("nba,nbc->bac", x[..., i : i + 1], x[..., j : j + 1]) for n, (i, j) in at.items()}
    >>> folds = Moments(sums, np.full(3, 100.0))
    >>> bool(correlations_of_folds(canonical_triples, folds)[0] < canonical_triples(folds).values[0])
    True
    """
    if folds.n_blocks < 2:
        return None
    judged = []
    for others, judge in each_in_turn(folds):
        left, _, right = solve(others)
        judged.append(judge.transformed(left, right))
    return correlations(functools.reduce(operator.add, judged))


def correlations_with_error(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """`correlations` and their jackknife standard errors, (n_modes,) each; errors are NaN of moments in one block."""
    values = correlations(moments)
    if moments.n_blocks < 2:
        return values, np.full(len(values), np.nan)
    return values, jackknife_error(correlations(moments.leaving_out()))


@checked
def held_out_scores(train: OneEstimate, test: OneEstimate) -> xr.Dataset:
    """VAMP-1, VAMP-2 and VAMP-E of held-out pairs as a Dataset that records its conventions.

    Parameters
    ----------
    train, test : Moments
        Of the same features on training and on held-out pairs.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> train, test = (estimate_moments(features, features, (part, 0.5 * part)) for part in (x[::2], x[1::2]))
    >>> kl.held_out_scores(train, test).vamp_2.round(6).item()
    2.0
    """
    scores = vamp_scores(train, test)
    attrs = provenance(counts_constant_mode=True, n_pairs_train=train.n_pairs, n_pairs_held_out=test.n_pairs)
    return labelled({name: ((), value) for name, value in scores._asdict().items()}, attrs)
