"""`Moments`, the waist of the package: second moments of two feature maps, per block of data, and pure maps of them.

Everything downstream is a function of moments. They carry their clock, add, and can be resampled along a leading axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from koopman_lora._linalg import beside_one, conjugate_transpose, on_shifted, phase_of
from koopman_lora.checks import as_annotated, checked
from koopman_lora.clock import Clock
from koopman_lora.kinds import Moderate, Positions, check_matrices, check_positions, check_stacks, check_word
from koopman_lora.moment_names import CROSS as CROSS
from koopman_lora.moment_names import DEFINITIONS, EDMD, OBSERVABLES, check_blocks, n_features
from koopman_lora.moment_names import SAME_MAP as SAME_MAP

# From a batch of states (batch, *state), a tensor, to features (batch, n_features), a tensor or an array.
FeatureMap = Callable[[Any], Any]


class MissingMomentError(ValueError, AttributeError):
    """A moment was asked for that was not estimated."""


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Sums of feature products per block of the data; means over all blocks are `moments.M_f`, `moments.T_fg`, ...

    Resampled moments are `Moments` with a leading axis: `moments.M_f` is then (n_resamples, k, k).

    Attributes
    ----------
    block_sums : mapping from name to an array (..., n_blocks, k, k) of sums over the pairs of a block; with `shifts`,
        of the features (1, f - shift), (..., n_blocks, 1 + k, 1 + k), which an offset of the data cannot swamp
    block_counts : array (..., n_blocks) of numbers of pairs, or of sums of weights where pairs have weights
    clock : what one lag is
    orientation_sums : array (..., n_blocks, k), sums of f(x) over the states far out along a fixed direction, from
        which `phases` fixes the free phases of functions; None where no states were at hand
    observable_names : names of the observables in H_f and H_g, where they have any
    shifts : rows (k,) near the means of the features f, g and of the observables h; None for plain sums of products,
        from which a constant among the features cannot be told apart
    is_reversible : every pair counted both ways, so that T_ff is Hermitian and M_f is M_f1
    block_pairs : array (..., n_blocks, 2) of numbers of pairs and of sums of squared weights; None without weights

    References
    ----------
    docs/mathematics.md, section 2.

    Examples
    --------
    >>> m = Moments({"M_f": np.ones((3, 1, 1))}, np.array([1, 2, 1]))
    >>> m.M_f, m.n_pairs
    (array([[0.75]]), 4)
    """

    block_sums: Mapping[str, np.ndarray]
    block_counts: np.ndarray
    clock: Clock = Clock()
    orientation_sums: np.ndarray | None = None
    observable_names: tuple[str, ...] | None = None
    shifts: Mapping[str, np.ndarray] | None = None
    is_reversible: bool = False
    block_pairs: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_stacks("block_sums", self.block_sums, self.block_counts.shape)

    @property
    def n_pairs(self) -> int:
        """Number of pairs in all blocks (of data that were not resampled)."""
        return int(self.block_counts.sum() if self.block_pairs is None else self.block_pairs[..., 0].sum())

    @property
    def n_effective(self) -> float:
        """Kish's effective number of pairs, `(sum w)^2 / sum w^2`: so many of equal weight tell as much."""
        if self.block_pairs is None:
            return float(self.n_pairs)
        return float(self.block_counts.sum() ** 2 / self.block_pairs[..., 1].sum())

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self.block_counts.shape[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the moments held."""
        return tuple(self.block_sums)

    def __contains__(self, name: str) -> bool:
        return name in self.block_sums

    def __getattr__(self, name: str) -> np.ndarray:
        # only called for names that are no fields: M_f, T_fg, ...
        sums = self.__dict__.get("block_sums", {})
        if name in sums:
            return self.between(name)
        if name in DEFINITIONS:
            how = "with observables=h" if name in OBSERVABLES else "with names=None, or with it among the names"
            raise MissingMomentError(f"moments lack {name}, they hold {', '.join(sums)}; estimate them {how}.")
        raise AttributeError(f"Moments has no attribute {name!r}.")

    def __repr__(self) -> str:
        extra = int(self.shifts is not None)
        sizes = {n: "x".join(str(size - extra) for size in sums.shape[-2:]) for n, sums in self.block_sums.items()}
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        of = f"{self.n_pairs} pairs in {self.n_blocks} blocks"
        if self.block_counts.ndim > 1:
            of = f"{len(self.block_counts)} resamples"
        return f"Moments({listed}; {of}; {self.clock})"

    def _mean(self, name: str) -> np.ndarray:
        self._require(name)
        return self.block_sums[name].sum(axis=-3) / self.block_counts.sum(axis=-1)[..., None, None]

    def between(self, name: str, left: Moderate | None = None, right: Moderate | None = None) -> np.ndarray:
        """The moment of functions `features @ left` and `features @ right`, by default of the features themselves.

        Precise also where the features have large offsets that cancel in the functions.
        """
        mean = self._mean(name)
        (left_map, _), (right_map, _) = DEFINITIONS[name]
        for key, A, side in (("left", left, left_map), ("right", right, right_map)):
            if A is not None:
                check_matrices(key, A, n_features(side, self.block_sums, self.shifts))
        if self.shifts is not None:
            left, right = on_shifted(self.shifts[left_map], left), on_shifted(self.shifts[right_map], right)
        mean = mean if left is None else conjugate_transpose(left) @ mean
        return mean if right is None else mean @ right

    def only(self, names: Sequence[str]) -> Moments:
        """Those of the moments that are among `names`."""
        return dataclasses.replace(self, block_sums={n: sums for n, sums in self.block_sums.items() if n in names})

    def pooled(self, names: Sequence[str] | None = None) -> Moments:
        """All blocks, and all resamples where there are some, as one block; of the moments `names`, by default all."""
        held, n = self if names is None else self.only(names), self.block_counts.ndim
        held = dataclasses.replace(held, orientation_sums=None)
        return held.with_blocks(lambda values: values.reshape(-1, *values.shape[n:]).sum(axis=0)[None])

    def covariance(self, name: str) -> np.ndarray:
        """`E[(a - E a)^H (b - E b)]` where the moment is `E[a^H b]`, (..., k, k); needs `shifts`."""
        mean = self._mean(name)
        return mean[..., 1:, 1:] - mean[..., 1:, :1] @ mean[..., :1, 1:]

    def means(self, name: str) -> np.ndarray:
        """Mean of the right-hand features of a moment, (..., k); needs `shifts`."""
        self._require(name)
        if self.shifts is None:
            raise ValueError("these moments are plain sums, which hold no means; estimate_moments keeps them.")
        return self.shifts[DEFINITIONS[name][1][0]] + self._mean(name)[..., 0, 1:]

    def phases(self, coefficients: np.ndarray) -> np.ndarray:
        """Factors (n,) of modulus 1 that fix the phases of functions `f(x) @ coefficients` (k, n): the one phase rule.

        The mean of each function over the data far out along a fixed direction becomes real positive; without
        orientation sums, its largest coefficient does.
        """
        check_matrices("coefficients", coefficients, n_features("f", self.block_sums, self.shifts))
        if self.orientation_sums is not None and np.any(self.orientation_sums):
            return phase_of(self.orientation_sums.sum(axis=-2) @ coefficients)
        return phase_of(coefficients[np.abs(coefficients).argmax(axis=0), np.arange(coefficients.shape[1])])

    # ------------------------------------------------------------------------------------------------------ blocks

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.is_reversible != other.is_reversible:
            raise ValueError("moments to add must both be of pairs.both_ways(), or neither.")
        if set(self.names) != set(other.names):
            raise ValueError(f"moments to add must hold the same names; got {self.names} and {other.names}.")
        mine, theirs = self.observable_names, other.observable_names
        if mine != theirs:
            raise ValueError(f"moments to add must be of the same observables; got {mine} and {theirs}.")
        both = [m.orientation_sums for m in (self, other) if m.orientation_sums is not None]
        of_pairs = [
            np.stack([m.block_counts] * 2, axis=-1) if m.block_pairs is None else m.block_pairs for m in (self, other)
        ]
        other = other.about(self.shifts)
        return dataclasses.replace(
            self,
            block_sums={n: np.concatenate([self.block_sums[n], other.block_sums[n]], axis=-3) for n in self.names},
            block_counts=np.concatenate([self.block_counts, other.block_counts], axis=-1),
            clock=self.clock.agreed(other.clock),
            orientation_sums=np.concatenate(both, axis=-2) if len(both) == 2 else None,
            block_pairs=None if self.block_pairs is other.block_pairs is None else np.concatenate(of_pairs, axis=-2),
        )

    def about(self, shifts: Mapping[str, np.ndarray] | None) -> Moments:
        """The same moments as sums about other shifts, so that they add.

        Raises
        ------
        ValueError
            If only one of the two has shifts.
        """
        if (shifts is None) != (self.shifts is None):
            raise ValueError("moments to add must both be sums about shifts, as of estimate_moments, or neither.")
        if shifts is None or self.shifts is None:
            return self
        moves = {side: beside_one(np.eye(len(c)), self.shifts[side] - c) for side, c in shifts.items()}
        return self.mapped(moves, shifts)

    def with_blocks(self, change: Callable[[np.ndarray], np.ndarray]) -> Moments:
        """What `change` makes of every array, the axis of whose blocks is the last of `block_counts`."""
        sums: Any = {name: change(values) for name, values in self.block_sums.items()}
        held = {name: getattr(self, name) for name in ("block_counts", "orientation_sums", "block_pairs")}
        rest: Any = {name: None if values is None else change(values) for name, values in held.items()}
        return dataclasses.replace(self, block_sums=sums, **rest)

    def _by_block(self, weights: np.ndarray) -> Moments:
        """Sums over blocks with weights (n_new_blocks, n_blocks), of moments without a leading axis."""
        return self.with_blocks(lambda values: np.tensordot(weights, values, axes=1))

    def selected(self, blocks: Positions) -> Moments:
        """Moments of some of the blocks, given by position or by mask."""
        check_positions("blocks", blocks, self.n_blocks)
        return self.with_blocks(lambda values: values[blocks])

    def merged(self, labels: np.ndarray) -> Moments:
        """Blocks of one label (n_blocks,) made one block, in the order of the labels.

        Examples
        --------
        >>> Moments({"M_f": np.ones((3, 1, 1))}, np.array([1, 2, 1])).merged(np.array([0, 0, 1])).block_counts
        array([3., 1.])
        """
        if np.shape(labels) != (self.n_blocks,):
            raise ValueError(f"labels must have shape ({self.n_blocks},), one per block; got {np.shape(labels)}.")
        return self._by_block((np.unique(labels)[:, None] == labels).astype(float))

    def joined(self, blocks: Positions) -> Moments | None:
        """The blocks of a mask (n_blocks,) as one block; None if there are none."""
        return c.merged(np.zeros(c.n_blocks)) if (c := self.selected(blocks)).n_blocks else None

    def reweighted(self, weights: Moderate) -> Moments:
        """Moments with a leading axis, one entry for every row of block weights (n_resamples, n_blocks)."""
        check_matrices("weights", weights, n_columns=self.n_blocks)
        return self._by_block(weights).with_blocks(lambda values: values[:, None])

    def leaving_out(self) -> Moments:
        """Moments with a leading axis: each block left out in turn, what a jackknife needs."""
        return self.reweighted(1.0 - np.eye(self.n_blocks))

    # ----------------------------------------------------------------------------------------------- maps of features

    def transformed(self, A_f: Moderate, A_g: Moderate) -> Moments:
        """Moments of the features `f A_f` and `g A_g`, without another pass over the data."""
        for key, A, side in (("A_f", A_f, "f"), ("A_g", A_g, "g")):
            check_matrices(key, A, n_features(side, self.block_sums, self.shifts), is_one=self.shifts is not None)
        return self.combined({"f": A_f, "g": A_g})

    def combined(self, maps: Mapping[str, np.ndarray]) -> Moments:
        """`transformed`, of the sides that `maps` names, 'f' or 'g'."""
        A_f, shifts = maps.get("f"), self.shifts
        if shifts is not None:
            shifts = {**shifts, **{side: shifts[side] @ A for side, A in maps.items() if side in shifts}}
            maps = {side: beside_one(A) for side, A in maps.items()}
        return self.mapped(maps, shifts, A_f)

    def mapped(self, maps: Mapping[str, Any], shifts: Mapping[str, Any] | None, A_f: Any = None) -> Moments:
        """Moments of (1, f - shift) times a map (1 + k, 1 + n), by side, with the shifts that these then have.

        Unlike `combined` this can take means off. A_f: coefficients (k, n) on f of the new f, for its orientation.
        """
        sums = {}
        for name, values in self.block_sums.items():
            (left, _), (right, _) = DEFINITIONS[name]
            values = conjugate_transpose(maps[left]) @ values if left in maps else values
            sums[name] = values @ maps[right] if right in maps else values
        orientation = self.orientation_sums
        orientation = orientation if orientation is None or A_f is None else orientation @ A_f
        return dataclasses.replace(self, block_sums=sums, orientation_sums=orientation, shifts=shifts)

    def time_reversed(self) -> Moments:
        """Moments of the process run backward: (f, x) and (g, x') change places.

        What is computed from them is about the adjoint, `(K* h)(x') = E[h(x) | x']`.

        Examples
        --------
        >>> m = Moments({"M_f": np.ones((1, 1, 1)), "M_g": np.full((1, 1, 1), 4.0)}, np.array([1]))
        >>> m.time_reversed().M_f
        array([[4.]])
        """
        sums: dict[str, np.ndarray] = {}
        for a, b in (("M_f", "M_g"), ("M_f1", "M_g0"), ("C_gf", "C_fg"), ("H_f", "H_g")):
            sums |= {new: self.block_sums[old] for new, old in ((a, b), (b, a)) if old in self}
        for a, b in (("T_ff", "T_gg"), ("T_fg", "T_fg")):
            sums |= {new: conjugate_transpose(self.block_sums[old]) for new, old in ((a, b), (b, a)) if old in self}
        return dataclasses.replace(self, block_sums=sums, orientation_sums=None, shifts=self._renamed(f="g", g="f"))

    def _renamed(self, **sides: str) -> dict[str, np.ndarray] | None:
        """Shifts with those of `sides` taken from other sides."""
        if self.shifts is None:
            return None
        return {**self.shifts, **{new: self.shifts[old] for new, old in sides.items() if old in self.shifts}}

    def symmetrised(self) -> Moments:
        """Moments of f on both sides, averaged over a process and its reversal: for data known to be in equilibrium.

        `M = (M_f + M_f1) / 2` and `T = (T_ff + T_ff^H) / 2`: eigenvalues are real, at most 1 in modulus; g has no role.

        Raises
        ------
        MissingMomentError
            Without T_ff and M_f1.
        """
        self._require(*EDMD)
        sums = self.block_sums
        M = (sums["M_f"] + sums["M_f1"]) / 2
        T = (sums["T_ff"] + conjugate_transpose(sums["T_ff"])) / 2
        result = dict.fromkeys(("M_f", "M_g", "M_f1", "M_g0", "C_gf", "C_fg"), M)
        result |= dict.fromkeys(("T_fg", "T_ff", "T_gg"), T) | {"A_ff": sums.get("A_ff", sums["T_ff"] - T)}
        if "H_f" in sums:  # E[f(x')^H h(x')] is not among the moments; in equilibrium it is the same
            result |= {"H_f": sums["H_f"], "H_g": sums["H_f"]}
        return dataclasses.replace(self, block_sums=result, shifts=self._renamed(g="f"), is_reversible=True)

    def of_g_only(self) -> Moments:
        """Moments of g in the place of f: M_f, T_ff and M_f1, which is all that EDMD needs."""
        names = {"M_f": "M_g0", "T_ff": "T_gg", "M_f1": "M_g"}
        self._require(*names.values())
        sums = {new: self.block_sums[old] for new, old in names.items()}
        return dataclasses.replace(self, block_sums=sums, orientation_sums=None, shifts=self._renamed(f="g"))

    def _require(self, *names: str) -> None:
        for name in names:
            check_word("name", name, DEFINITIONS)
            if name not in self:
                getattr(self, name)  # raises, and says how to estimate it
        check_blocks(self.n_blocks)


def _one_estimate(name: str, value: Any) -> Moments:
    if as_annotated(name, value, Moments).block_counts.ndim > 1:
        raise ValueError(f"{name} must be moments of one estimate; these are resampled.")
    check_blocks(value.n_blocks)
    return value


# In an annotation: moments without a leading axis.
OneEstimate = Annotated[Moments, _one_estimate]
