"""What the methods learn from: pairs of each system, and the truth to measure them by.

A share is the part of the exact `sum_{i <= k} sigma_i^2` that k learned functions capture. Where the states themselves
are simulated it is computed by quadrature (`kl.captured_share`). Where they are seen through a map into many
coordinates, with noise among these, it is VAMP-2 on long fresh data over that of the hidden process's exact functions
there: all that anybody could find, and more than that where noise hides some of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from _shared import reference_of

import koopman_lora as kl
from koopman_lora.moments import CROSS
from koopman_lora.scores import span_vamp_2

Function = Callable[[np.ndarray], np.ndarray]
FeatureMaps = tuple[Function, Function]
CHUNK = 8192  # states at once: features of thousands of kernel centres fill the memory


def in_chunks(function: Function, x: np.ndarray) -> np.ndarray:
    """Values of a function at many states."""
    return np.concatenate([function(x[start : start + CHUNK]) for start in range(0, len(x), CHUNK)])


@dataclasses.dataclass(frozen=True)
class Seen:
    """A simulated system whose states are seen as they are.

    Attributes
    ----------
    title : of the table and the figure
    system : with its reference spectrum
    n_pairs, n_trajectories, lag, n_modes : of the data and of the fits
    """

    title: str
    system: kl.systems.System
    n_pairs: int
    n_modes: int
    n_trajectories: int = 4
    lag: int = 1

    @cached_property
    def reference(self) -> kl.systems.ReferenceSpectrum:
        """The truth, with more modes than are asked for."""
        return reference_of(self.system, self.n_modes, self.lag)

    @property
    def exact(self) -> tuple[np.ndarray, Function, Function]:
        """Exact singular values and functions, of the states that `draw` returns as hidden ones."""
        return self.reference.singular_values, self.reference.left, self.reference.right

    def draw(self, seed: int) -> tuple[kl.LaggedPairs, kl.LaggedPairs]:
        """Pairs of what is seen, and of what is hidden behind it: here the same."""
        n_steps = self.n_pairs // self.n_trajectories + self.lag
        pairs = kl.lagged_pairs(self.system.simulate(self.n_trajectories, n_steps, seed), self.lag)
        return pairs, pairs

    def share(self, maps: FeatureMaps, hidden: bool = False) -> float:
        """Captured share of the feature maps by quadrature."""
        f, g = (in_chunks(side, self.reference.points) for side in maps)
        return kl.captured_share(f, g, self.reference, self.n_modes)


@dataclasses.dataclass(frozen=True)
class Behind:
    """A hidden process of independent parts, seen through a map into many coordinates.

    Attributes
    ----------
    title : of the table and the figure
    parts : of the hidden process, each with its reference and side by side in the hidden state
    observe : hidden states (n, n_hidden) and a random generator -> what is seen, (n, n_coordinates)
    n_frames, lag, n_modes : of the data, one trajectory, and of the fits
    fresh : numbers of trajectories and of their frames of the fresh data
    """

    title: str
    parts: tuple[kl.systems.System, ...]
    observe: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    n_frames: int
    n_modes: int
    lag: int = 1
    fresh: tuple[int, int] = (100, 2000)

    @cached_property
    def exact(self) -> tuple[np.ndarray, Function, Function]:
        """Exact singular values and functions of the hidden process."""
        return products([reference_of(part, 8, self.lag) for part in self.parts], 2 * self.n_modes)

    def _draw(self, seed: int, n_trajectories: int, n_frames: int) -> tuple[kl.LaggedPairs, kl.LaggedPairs]:
        rng = np.random.default_rng(seed)
        seeds = rng.integers(1 << 30, size=len(self.parts))
        hidden = np.concatenate(
            [
                part.simulate(n_trajectories, n_frames, int(own)).values
                for part, own in zip(self.parts, seeds, strict=True)
            ],
            axis=2,
        )
        seen = [self.observe(trajectory, rng) for trajectory in hidden]
        return kl.lagged_pairs(seen, self.lag), kl.lagged_pairs(list(hidden), self.lag)

    def draw(self, seed: int) -> tuple[kl.LaggedPairs, kl.LaggedPairs]:
        """Pairs of what is seen, and of what is hidden behind it."""
        return self._draw(seed, 1, self.n_frames)

    @cached_property
    def _fresh(self) -> tuple[kl.LaggedPairs, kl.LaggedPairs]:
        return self._draw(999_999, *self.fresh)

    @cached_property
    def _best(self) -> float:
        f, g = (lambda x, side=side: side(x)[:, : self.n_modes] for side in self.exact[1:])
        return self._fresh_score((f, g), hidden=True)

    def _fresh_score(self, maps: FeatureMaps, hidden: bool) -> float:
        f, g = (lambda x, side=side: in_chunks(side, x.numpy()) for side in maps)
        return float(span_vamp_2(kl.estimate_moments(f, g, self._fresh[hidden], names=CROSS)))

    def share(self, maps: FeatureMaps, hidden: bool = False) -> float:
        """VAMP-2 of the maps' span on fresh data, over that of the exact functions of the hidden process."""
        return self._fresh_score(maps, hidden) / self._best


def products(references: Sequence[kl.systems.ReferenceSpectrum], n_modes: int) -> tuple[np.ndarray, Function, Function]:
    """Leading singular values and functions of independent processes side by side: products, one factor of each."""
    leading: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    for reference in references:
        both = [(s * t, (*of, j)) for s, of in leading for j, t in enumerate(reference.singular_values)]
        leading = sorted(both, reverse=True)[:n_modes]
    columns = np.cumsum([0, *(reference.points.shape[1] for reference in references)])

    def side(name: str) -> Function:
        def functions(x: np.ndarray) -> np.ndarray:
            parts = [getattr(r, name)(x[:, a:b]) for r, a, b in zip(references, columns[:-1], columns[1:], strict=True)]
            return np.stack([np.prod([v[:, j] for v, j in zip(parts, of, strict=True)], 0) for _, of in leading], 1)

        return functions

    return np.array([value for value, _ in leading]), side("left"), side("right")


def memory(factor: float) -> kl.systems.LinearGaussian:
    """A coordinate of unit variance whose correlation over a frame is `factor`."""
    return kl.systems.LinearGaussian(np.array([[factor]]), np.array([[np.sqrt(1 - factor**2)]]))


def distances(hidden: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """45 'distances' (n, 45): smooth functions of a particle in four wells, coloured and white noise."""
    fixed, n = np.random.default_rng(5), len(hidden)
    inner, phase, outer = fixed.normal(size=(2, 12)), 1.5 * fixed.normal(size=12), 0.3 * fixed.normal(size=(12, 45))
    vibrations = np.hstack([rng.normal(size=(n, 1)), hidden[:, 2:]]) @ (0.4 * fixed.normal(size=(8, 45)))
    folded = np.sin(0.9 * hidden[:, :2] @ inner + phase) @ outer
    return 3 + folded + vibrations + 0.05 * vibrations**2 + 0.05 * rng.normal(size=(n, 45))


def curved(hidden: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """10 coordinates behind a smooth map into 40, injective as nearly all such maps are, and 10 of noise: (n, 50)."""
    fixed = np.random.default_rng(7)
    inner, outer = fixed.normal(size=(10, 40)) / np.sqrt(10), fixed.normal(size=(40, 40)) / np.sqrt(10)
    z = np.hstack([hidden, rng.normal(size=(len(hidden), 1))]) @ inner
    return np.hstack([np.tanh(z) @ outer + 0.3 * z, rng.normal(size=(len(hidden), 10))])


def molecule(temperature: float) -> tuple[kl.systems.System, ...]:
    """Hidden parts of `distances`: the particle, and seven coordinates of coloured noise."""
    wells = kl.systems.FourWellLandscape2D(dt=0.05, temperature=temperature)
    return wells, *(memory(factor) for factor in np.linspace(0.0, 0.9, 8)[1:])


MAP = kl.systems.NoisyLogisticMap(order=20)
COLD = kl.systems.FourWellLandscape2D(temperature=0.42)  # some ten jumps over the high barrier in 40,000 frames
HIDDEN = tuple(memory(factor) for factor in (0.97, 0.93, 0.85, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05))

SYSTEMS = {
    "map-40000": Seen("noisy logistic map, 40,000 pairs, 20 modes", MAP, 40_000, 20),
    "map-1000": Seen("noisy logistic map, 1,000 pairs, 8 modes", MAP, 1000, 8),
    "wells-1d": Seen("four wells on a line, 20,000 pairs, 8 modes", kl.systems.FourWellLangevin1D(), 20_000, 8),
    "wells-2d": Seen("four wells in the plane, 20,000 pairs, 8 modes", kl.systems.FourWellLandscape2D(), 20_000, 8),
    "rare-4": Seen("four wells, rare transitions, one trajectory of 40,000, 4 modes", COLD, 40_000, 4, 1),
    "rare-8": Seen("four wells, rare transitions, one trajectory of 40,000, 8 modes", COLD, 40_000, 8, 1),
    "mueller-brown": Seen("Mueller-Brown, 20,000 pairs, 4 modes", kl.systems.MuellerBrown(), 20_000, 4, 20),
    "curved-4000": Behind("10-D Ornstein-Uhlenbeck seen in 50-D, 4,000 frames, 6 modes", HIDDEN, curved, 4000, 6),
    "curved-20000": Behind("10-D Ornstein-Uhlenbeck seen in 50-D, 20,000 frames, 8 modes", HIDDEN, curved, 20_000, 8),
    "distances": Behind("45 distances, 3,000 frames, lag 10, 6 modes", molecule(0.8), distances, 3000, 6, 10),
    "distances-rare": Behind(
        "45 distances, rare transitions, 3,000 frames, lag 10, 4 modes", molecule(0.55), distances, 3000, 4, 10
    ),
}
QUICK = ("map-1000", "wells-2d")
