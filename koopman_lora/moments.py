"""Second moments of any two feature maps over lagged pairs: float64, streamed, addable, kept per block of data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.pairs import LaggedPairs, block_numbers

FeatureMap = Callable[[Tensor], Any]

# (left map, left time), (right map, right time): M = E[left^H right]; 0 is x and 1 is x'
_DEFINITIONS: dict[str, tuple[tuple[str, int], tuple[str, int]]] = {
    "M_f": (("f", 0), ("f", 0)),
    "M_g": (("g", 1), ("g", 1)),
    "T_fg": (("f", 0), ("g", 1)),
    "T_ff": (("f", 0), ("f", 1)),
    "M_f1": (("f", 1), ("f", 1)),
    "T_gg": (("g", 0), ("g", 1)),
    "M_g0": (("g", 0), ("g", 0)),
    "C_gf": (("g", 1), ("f", 1)),
    "C_fg": (("f", 0), ("g", 0)),
    "H_f": (("f", 0), ("h", 0)),
    "H_g": (("g", 1), ("h", 1)),
    "M_h": (("h", 0), ("h", 0)),
}

_CROSS = ("M_f", "M_g", "T_fg")
_SAME_MAP = ("T_ff", "M_f1", "T_gg", "M_g0", "C_gf", "C_fg")
_OBSERVABLES = ("H_f", "H_g", "M_h")


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums of feature products per block of the data; the means over all blocks are the moments of MATH.md section 2.

    Two results add (`a + b` joins their blocks), and blocks can be re-weighted, which is what the bootstrap does.

    Attributes
    ----------
    block_sums : mapping from name ('M_f', 'T_fg', ...) to an array (n_blocks, k, k) of sums over the pairs of a block
    block_counts : array (n_blocks,) of numbers of pairs

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, x + 1))
    >>> m.M_f, m.T_fg, m.n_pairs
    (array([[2.5]]), array([[4.]]), 2)
    """

    block_sums: Mapping[str, np.ndarray]
    block_counts: np.ndarray

    @property
    def n_pairs(self) -> int:
        """Number of pairs in all blocks."""
        return int(self.block_counts.sum())

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.block_counts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the moments held."""
        return tuple(self.block_sums)

    def __getattr__(self, name: str) -> np.ndarray:
        # only called for names that are no fields: M_f, T_fg, ...
        sums = self.__dict__.get("block_sums", {})
        if name in sums:
            return sums[name].sum(axis=0) / self.block_counts.sum()
        if name in _DEFINITIONS:
            raise AttributeError(f"these moments hold {', '.join(sums)}, not {name}; estimate them with it.")
        raise AttributeError(f"Moments has no attribute {name!r}.")

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if set(self.names) != set(other.names):
            raise ValueError(f"moments to add must hold the same names; got {self.names} and {other.names}.")
        sums = {name: np.concatenate([self.block_sums[name], other.block_sums[name]]) for name in self.names}
        return Moments(sums, np.concatenate([self.block_counts, other.block_counts]))

    def reweighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Moments for every row of block weights: name -> array (n_resamples, k, k).

        Parameters
        ----------
        weights : array of shape (n_resamples, n_blocks), how often each block counts
        """
        totals = weights @ self.block_counts
        return {
            name: np.tensordot(weights, sums, axes=1) / totals.reshape(-1, *(1,) * (sums.ndim - 1))
            for name, sums in self.block_sums.items()
        }

    def transformed(self, A_f: np.ndarray, A_g: np.ndarray) -> Moments:
        """Moments of the features `f A_f` and `g A_g`, without another pass over the data."""
        maps = {"f": np.asarray(A_f), "g": np.asarray(A_g)}
        sums = {}
        for name, values in self.block_sums.items():
            if name in _DEFINITIONS:
                (left, _), (right, _) = _DEFINITIONS[name]
                if left in maps:
                    values = np.conj(maps[left].T) @ values
                if right in maps:
                    values = values @ maps[right]
            else:  # phase_f: a sum of feature rows
                values = values @ maps["f"]
            sums[name] = values
        return Moments(sums, self.block_counts)

    def merged(self, block: slice | np.ndarray) -> Moments:
        """Moments of some of the blocks."""
        return Moments({n: s[block] for n, s in self.block_sums.items()}, self.block_counts[block])


def estimate_moments(
    f: FeatureMap,
    g: FeatureMap,
    pairs: LaggedPairs | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    observables: FeatureMap | None = None,
    n_blocks: int = 64,
    batch_size: int = 8192,
    same_map: bool = True,
) -> Moments:
    """Accumulate the moments of two feature maps over lagged pairs in float64.

    Parameters
    ----------
    f, g : callables (batch, *state) -> (batch, n_features)
        Any feature maps: a model's `f` and `g`, a fixed dictionary (classical EDMD), a one-hot map (Markov model). They
        receive torch tensors and may return tensors or arrays, real or complex.
    pairs : LaggedPairs, tuple (x, x_next), or an iterable of batches (x, x_next) such as a DataLoader
    observables : callable, optional
        h, (batch, *state) -> (batch, n_observables): adds H_f = E[f(x)^H h(x)], H_g = E[g(x')^H h(x')], M_h.
    n_blocks : int
        Contiguous blocks to keep apart, none across two trajectories; of an iterable, its batches.
    batch_size : int
        Pairs per forward pass for data in memory.
    same_map : bool
        Also the moments of one map at both times, which eigenvalues, predictions and residuals need: twice the passes.

    Raises
    ------
    ValueError
        For empty data, or features that are not (batch, n_features) or not finite.

    Examples
    --------
    >>> pairs = (torch.zeros(4, 1), torch.ones(4, 1))
    >>> estimate_moments(lambda x: x + 1, lambda x: x, pairs, same_map=False).names
    ('M_f', 'M_g', 'T_fg', 'phase_f')
    """
    total = _Accumulator(f, g, observables, same_map)
    with torch.no_grad():
        if isinstance(pairs, LaggedPairs):
            total.fix_phase_scale(pairs.x)
            for start, stop in _block_bounds(block_numbers(pairs, n_blocks)):
                total.add_block(_batches(pairs.x[start:stop], pairs.x_next[start:stop], batch_size))
        elif _is_pair_of_tensors(pairs):
            x, x_next = (torch.as_tensor(side) for side in pairs)
            _check_equal_length(x, x_next)
            total.fix_phase_scale(x)
            bounds = np.linspace(0, len(x), min(n_blocks, max(len(x), 1)) + 1).astype(int)
            for start, stop in itertools.pairwise(bounds):
                total.add_block(_batches(x[start:stop], x_next[start:stop], batch_size))
        else:
            for batch in pairs:
                total.add_block([(batch[0], batch[1])])
                total.limit_blocks(n_blocks)
    return total.result()


def _is_pair_of_tensors(pairs: Any) -> bool:
    return isinstance(pairs, tuple) and len(pairs) == 2 and all(hasattr(side, "shape") for side in pairs)


def _check_equal_length(x: Any, x_next: Any) -> None:
    if len(x) != len(x_next):
        raise ValueError(f"x and x_next must hold equally many states; got {len(x)} and {len(x_next)}.")


def _block_bounds(block: np.ndarray) -> Iterable[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(block)) + 1
    return zip(np.r_[0, edges], np.r_[edges, len(block)], strict=True)


def _batches(x: Tensor, x_next: Tensor, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(x.split(batch_size), x_next.split(batch_size), strict=True)


class _Accumulator:
    """Collects block sums; holds no features longer than one batch."""

    def __init__(self, f: FeatureMap, g: FeatureMap, h: FeatureMap | None, same_map: bool) -> None:
        self.maps = {"f": f, "g": g} | ({"h": h} if h is not None else {})
        self.names = _CROSS + (_SAME_MAP if same_map else ()) + (_OBSERVABLES if h is not None else ())
        self.sums: dict[str, list[np.ndarray]] = {name: [] for name in (*self.names, "phase_f")}
        self.counts: list[int] = []
        self.phase_scale: tuple[np.ndarray, float] | None = None

    def add_block(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        sums: dict[str, Any] = dict.fromkeys(self.sums, 0.0)
        count = 0
        for x, x_next in batches:
            _check_equal_length(x, x_next)
            if len(x) == 0:
                continue
            features = self._features(x, x_next)
            for name in self.names:
                left, right = _DEFINITIONS[name]
                sums[name] = sums[name] + np.conj(features[left].T) @ features[right]
            sums["phase_f"] = sums["phase_f"] + self._phase_weights(x) @ features["f", 0]
            count += len(x)
        if count:
            for name, value in sums.items():
                self.sums[name].append(value)
            self.counts.append(count)

    def _features(self, x: Tensor, x_next: Tensor) -> dict[tuple[str, int], np.ndarray]:
        needed = {part for name in self.names for part in _DEFINITIONS[name]}
        return {(m, time): _as_features(self.maps[m], (x, x_next)[time], m) for m, time in sorted(needed)}

    def fix_phase_scale(self, x: Tensor) -> None:
        """Choose the direction and the threshold of `_phase_weights` from states (n, *state)."""
        if len(x) == 0:
            return
        flat = x.detach().cpu().double().flatten(1).numpy()
        spread = flat.std(axis=0)
        moving = spread > 1e-12 * np.abs(flat).max(axis=0)
        # incommensurate weights, so that no symmetry of the coordinates makes the functional vanish
        weights = np.cos(np.arange(flat.shape[1]) * np.sqrt(2.0))
        direction = np.divide(weights, spread, out=np.zeros_like(spread), where=moving)
        along = flat @ direction
        self.phase_scale = direction, float(along.mean() + 0.7 * along.std())

    def _phase_weights(self, x: Tensor) -> np.ndarray:
        """1 where the state lies far out along a fixed direction, else 0: its functional fixes phases."""
        if self.phase_scale is None:  # a stream: its first batch decides
            self.fix_phase_scale(x)
        direction, threshold = self.phase_scale
        return (x.detach().cpu().double().flatten(1).numpy() @ direction > threshold).astype(float)

    def limit_blocks(self, n_blocks: int) -> None:
        """Merge neighbouring blocks once there are twice as many as wanted, so that a long stream stays small."""
        if len(self.counts) < 2 * n_blocks:
            return
        for name, values in self.sums.items():
            self.sums[name] = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
        self.counts = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]

    def result(self) -> Moments:
        if not self.counts:
            raise ValueError("pairs are empty; give at least one pair (x, x_next).")
        return Moments({n: np.stack(v) for n, v in self.sums.items()}, np.asarray(self.counts, dtype=float))


def _as_features(feature_map: FeatureMap, states: Tensor, name: str) -> np.ndarray:
    values = feature_map(states)
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != len(states):
        raise ValueError(f"{name} must map {len(states)} states to ({len(states)}, n_features); got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} gave NaN or inf features; check the model or the feature map.")
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
