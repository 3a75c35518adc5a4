"""What all systems share: the result of `spectrum`, the checks of arguments, and a few lines of linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE, labelled, provenance, trajectory_array
from koopman_lora.checks import checked
from koopman_lora.clock import Clock, check_dt, check_lag
from koopman_lora.kinds import is_real, whole

Function = Callable[[np.ndarray], np.ndarray]


class NoReferenceSpectrumError(ValueError):
    """The system is deterministic: its Koopman operator is not compact, so it has no list of singular values."""


@checked
@dataclass(frozen=True, eq=False)
class ReferenceSpectrum:
    """The leading singular triples and eigenpairs of a Koopman operator, as close to the truth as can be computed.

    The operator is ``K h(x) = E[h(x_{t+lag}) | x_t = x] = sum_i sigma_i phi_i(x) <psi_i, h>`` with
    ``<a, b> = E[conj(a) b]`` under the stationary law. The constant function is the first mode, with sigma = 1.

    Attributes
    ----------
    singular_values : array of shape (n_modes,), decreasing
    eigenvalues : complex array of shape (n_modes,), in the order of every spectrum (docs/mathematics.md, section 4): by
        decreasing modulus, among equal moduli by decreasing real part, of a conjugate pair the positive imaginary part
        first; moduli that no gap of 1e-9 separates count as equal
    left, right : functions from states (n, n_coordinates) to the singular functions phi and psi, (n, n_modes), real,
        orthonormal, paired so that sigma is real and not negative
    eigenfunctions : function from states (n, n_coordinates) to complex eigenfunctions (n, n_modes) of unit L2 norm, in
        the order of `eigenvalues`
    points, weights : quadrature of the stationary law, (n_points, n_coordinates) and (n_points,); weights sum to 1
    clock : lag in frames, and the physical time of a frame
    kind : "exact" (closed form, or converged to round-off) or "numerical"
    resolution : how it was computed, and for numerical spectra how much half the resolution changes it

    Examples
    --------
    >>> spectrum = NoisyRotation(omega=0.5, noise=0.5).spectrum(lag=1, n_modes=3)
    >>> spectrum.singular_values.round(3)
    array([1.   , 0.882, 0.882])
    >>> phi = spectrum.left(spectrum.points)
    >>> np.allclose(phi.T @ (spectrum.weights[:, None] * phi), np.eye(3))
    True
    """

    singular_values: np.ndarray
    eigenvalues: np.ndarray
    left: Function
    right: Function
    eigenfunctions: Function
    points: np.ndarray
    weights: np.ndarray
    clock: Clock
    kind: str
    resolution: str

    def to_dataset(self) -> xr.Dataset:
        """Singular values, eigenvalues and implied timescales with their units, as a Dataset over `mode`, from 1.

        Examples
        --------
        >>> reference = NoisyRotation(noise=0.5).spectrum(lag=2, n_modes=3).to_dataset()
        >>> reference.mode.values, reference.timescales.values
        (array([1, 2, 3]), array([inf, 8., 8.]))
        """
        timescales = self.clock.timescales(self.eigenvalues)
        return labelled(
            {
                "singular_values": (MODE, self.singular_values, {"units": "1"}),
                "eigenvalues": (MODE, self.eigenvalues, {"units": "1"}),
                "timescales": (MODE, timescales, {"units": self.clock.time_unit}),
            },
            attrs=provenance(**self.clock.attrs(), kind=self.kind, resolution=self.resolution),
        )


@checked(but=("lag", "dt", "n_trajectories", "n_steps", "seed", "n_modes"))
class System:
    """A dynamical system that can be simulated, and that knows its spectrum if it has one.

    A subclass is a frozen dataclass of its parameters with `dt` and `time_unit`; it writes `_draw` and, if it has a
    reference, `_reference`. Both receive checked arguments.

    Examples
    --------
    >>> system = NoisyRotation()
    >>> isinstance(system, kl.systems.System), system.spectrum(lag=1, n_modes=3).singular_values.round(3)
    (True, array([1.   , 0.956, 0.956]))
    """

    dt: float
    if TYPE_CHECKING:  # a field of some systems, a constant of others

        @property
        def time_unit(self) -> str:
            """Unit of `dt`."""

    coordinate_unit: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_dt(self.dt)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Name of each coordinate of the state."""
        raise NotImplementedError

    def simulate(self, n_trajectories: int = 1, n_steps: int = 1000, seed: int = 0) -> xr.DataArray:
        """Draw independent stationary trajectories.

        Parameters
        ----------
        n_trajectories : number of independent trajectories
        n_steps : number of frames of each trajectory, the first one included
        seed : seed of the random generator; the same seed gives the same trajectories

        Returns
        -------
        DataArray (trajectory, time, coordinate), float64, with dt, units and all parameters in its attributes
        """
        n_trajectories = check_count("n_trajectories", n_trajectories)
        n_steps = check_count("n_steps", n_steps)
        if n_trajectories * n_steps > MOST_FRAMES:
            got = f"{n_trajectories} * {n_steps}"
            raise ValueError(f"n_trajectories * n_steps must be at most {MOST_FRAMES} frames; got {got}.")
        seed = check_count("seed", seed, least=0)
        values = self._draw(np.random.default_rng(seed), n_trajectories, n_steps)
        return trajectory_array(
            values,
            dt=self.dt,
            time_unit=self.time_unit,
            coordinate_names=self.coordinate_names,
            coordinate_unit=self.coordinate_unit,
            attrs=provenance(system=type(self).__name__, parameters=self._parameters(), seed=seed),
        )

    def spectrum(self, lag: int = 1, n_modes: int = 8) -> ReferenceSpectrum:
        """Singular values, eigenvalues and functions of the Koopman operator over `lag` frames.

        Parameters
        ----------
        lag : number of frames between x and x', at least 1
        n_modes : number of modes, the constant one included

        Raises
        ------
        NoReferenceSpectrumError
            If the system is deterministic.
        """
        lag, n_modes = check_lag(lag), check_count("n_modes", n_modes)
        check_rank(n_modes, MOST_MODES, "more are not computed")
        return self._reference(lag, n_modes)

    def _clock(self, lag: int) -> Clock:
        return Clock(lag, self.dt, self.time_unit)

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        """States of shape (n_trajectories, n_steps, n_coordinates)."""
        raise NotImplementedError

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        raise NoReferenceSpectrumError(
            f"{type(self).__name__} is deterministic, so its Koopman operator has no discrete list of singular values; "
            "compare with held-out data instead, or choose a system with noise."
        )

    def _parameters(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


# States beyond it are in another unit; their eighth power, in a potential, would overflow.
LARGEST = 1e30
# Modes of a reference, whose functions are all known in closed form or on a grid; frames of one simulation.
MOST_MODES, MOST_FRAMES = 10_000, 10**9


def check_count(name: str, value: int, *, least: int = 1) -> int:
    """Return `value` as an int of at least `least`, or raise a ValueError that names the argument."""
    try:
        count = whole(name, value)
    except ValueError:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return count


def check_rank(n_modes: int, available: int, reason: str) -> None:
    """Raise a ValueError if more modes are asked for than there are."""
    if n_modes > available:
        raise ValueError(f"n_modes={n_modes} is more than the {available} available ({reason}); ask for fewer modes.")


def check_number(name: str, value: float, *, positive: bool = True) -> float:
    """Return a finite float that is positive (or not negative), or raise a ValueError that names the argument."""
    wanted = "a positive finite number" if positive else "a finite number of at least 0"
    if not is_real(value) or not np.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
    if positive and value == 0:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
    return float(value)


def check_states(x: np.ndarray, n_coordinates: int) -> np.ndarray:
    """Return states as a float array (n, n_coordinates), or raise a ValueError that shows the shape that came."""
    states = np.asarray(x, dtype=float)
    if states.ndim != 2 or states.shape[1] != n_coordinates:
        raise ValueError(f"x must have shape (n, {n_coordinates}), got {states.shape}.")
    if np.abs(states).max(initial=0.0) > LARGEST:
        raise ValueError(f"x must hold states of at most {LARGEST:g}; got {np.abs(states).max():g}.")
    return states


def check_columns(x: np.ndarray, n_coordinates: int) -> np.ndarray:
    """Return states as columns (n_coordinates, n), or raise a ValueError that shows the shape that came."""
    if x.ndim != 2 or len(x) != n_coordinates or np.abs(x).max(initial=0.0) > LARGEST:
        raise ValueError(f"x must have shape ({n_coordinates}, n), none beyond {LARGEST:g}; got shape {x.shape}.")
    return x


def svd_constant_first(
    core: np.ndarray, constant_left: np.ndarray, constant_right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition of an operator in orthonormal coordinates, the constant function first.

    Parameters
    ----------
    core : array (r, r), with ``core @ constant_right = constant_left`` and ``core.T @ constant_left = constant_right``
    constant_left, constant_right : unit vectors (r,), the coordinates of the constant function

    Returns
    -------
    U (r, r), singular_values (r,), V (r, r); of each column of U the largest entry is positive, except in the first,
    which is the constant itself
    """
    # Lifting the constant from 1 to 2 separates it from all others, even from those that have sigma = 1 too.
    U, singular_values, Vh = np.linalg.svd(core + np.outer(constant_left, constant_right))
    sign = np.sign(U[np.abs(U).argmax(axis=0), np.arange(U.shape[1])])
    U, V = U * sign, Vh.T * sign
    U[:, 0], V[:, 0], singular_values[0] = constant_left, constant_right, 1.0
    return U, singular_values, V


def normalisation(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Factors (n_modes,) that give functions, known at quadrature points, unit norm and a real positive largest value.

    Examples
    --------
    >>> bool(np.allclose(normalisation(np.array([[2j], [2j]]), np.array([0.5, 0.5])), [-0.5j]))
    True
    """
    norm = np.sqrt(weights @ np.abs(values) ** 2)
    largest = values[np.abs(values).argmax(axis=0), np.arange(values.shape[1])]
    return np.conj(largest) / (np.abs(largest) * norm)


def inverse_cdf_jump(cumulative: np.ndarray, states: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw the next state of a Markov chain for many chains at once.

    Parameters
    ----------
    cumulative : array (n_states * n_states,): row i of the transition matrix, cumulated, plus i. This makes the whole
        table one increasing sequence, so one binary search serves all chains.
    states : integer array (n_chains,)
    uniform : array (n_chains,) of uniform numbers in [0, 1)
    """
    n_states = int(np.sqrt(cumulative.size))
    jump = np.searchsorted(cumulative, states + uniform, side="right") - n_states * states
    return np.clip(jump, 0, n_states - 1)  # states + uniform may round up to the next whole number


def run_markov_chain(
    transition_matrix: np.ndarray, stationary: np.ndarray, rng: np.random.Generator, n_trajectories: int, n_steps: int
) -> np.ndarray:
    """Stationary trajectories of state indices, (n_trajectories, n_steps)."""
    n_states = len(stationary)
    cumulative = np.cumsum(transition_matrix, axis=1)
    cumulative /= cumulative[:, -1:]
    cumulative = (cumulative + np.arange(n_states)[:, None]).ravel()
    states = np.empty((n_steps, n_trajectories), dtype=int)
    states[0] = rng.choice(n_states, size=n_trajectories, p=stationary)
    for t, uniform in enumerate(rng.random((n_steps - 1, n_trajectories)), start=1):
        states[t] = inverse_cdf_jump(cumulative, states[t - 1], uniform)
    return states.T
