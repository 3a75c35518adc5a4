"""`FittedFunctions`: features, singular functions and eigenfunctions of a fitted model, at any states."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.arguments import told_as
from koopman_lora.checks import checked_methods
from koopman_lora.clock import Clock
from koopman_lora.data.arrays import names_of
from koopman_lora.data.containers import unpacked
from koopman_lora.data.lazy_states import readable_states
from koopman_lora.data.pairs import BATCH, LaggedPairs, lagged_pairs
from koopman_lora.data.splits import Split
from koopman_lora.fitted import MOMENT_BLOCKS, Fitted
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import FeatureMap, Moments
from koopman_lora.spectrum import clocked, evaluate_functions, model_spectrum


class DataNeededError(ValueError):
    """An answer needs the frames of the fit, and the analysis was opened without them."""


@checked_methods
class FittedFunctions:
    """Features, singular functions and eigenfunctions of a fitted model, and moments over any pairs.

    Parameters
    ----------
    fitted : everything that the fit left behind
    """

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted

    @property
    def model(self) -> KoopmanLoRAModel:
        """The fitted model."""
        return self.fitted.model

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit."""
        return self.model.clock

    @property
    def moments(self) -> Moments:
        """Moments of the fitted features over all pairs, per block."""
        return self.fitted.moments.everywhere

    @functools.cached_property
    def spectrum(self) -> xr.Dataset:
        """Singular values of all kinds, eigenvalues and timescales, see `koopman_spectrum`."""
        return model_spectrum(self.model, self.moments)

    def features(self, x: Any, side: str = "left") -> np.ndarray:
        """Features f(x) (`side="left"`) or g(x) (`side="right"`) at any states, (n, n_modes).

        Raises
        ------
        ValueError
            For another side, states of another shape, or with other coordinates than those of the fit.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right'; got {side!r}.")
        with told_as("x", "data"):
            x = unpacked(x)
        self._check_names("x", names_of(x))
        states = readable_states(x, self.model.state_shape)
        encode = self.model.f if side == "left" else self.model.g
        found: list[np.ndarray] = []
        for start in range(0, len(states), BATCH):
            batch = states.read(slice(start, min(start + BATCH, len(states))))
            with torch.no_grad():
                values = encode(batch).cpu().numpy()
            if not np.isfinite(values).all():
                raise ValueError(f"x holds states of up to {float(batch.abs().max()):.3g}, too large for features.")
            found.append(values.astype(np.complex128 if np.iscomplexobj(values) else np.float64))
        return np.concatenate(found) if found else np.empty((0, self.model.n_modes))

    def singular_functions(self, x: Any, side: str = "left") -> np.ndarray:
        """Singular functions at any states: phi (`side="left"`) or psi (`side="right"`), unit L2 norm.

        Parameters
        ----------
        x : states (n, *state), numpy, torch or labelled
        side : 'left' or 'right'

        Returns
        -------
        array of shape (n, n_modes)

        Raises
        ------
        ValueError
            For another side, states of another shape, or with other coordinates than those of the fit.
        """
        name = "psi_coefficients" if side == "right" else "phi_coefficients"
        return evaluate_functions(self.features(x, side), self.spectrum[name])

    def eigenfunctions(self, x: Any) -> np.ndarray:
        """Eigenfunctions of the rank-n operator at any states, complex (n, n_modes), unit L2 norm."""
        return evaluate_functions(self.features(x), self.spectrum["right_eigenfunction_coefficients"])

    def feature_moments(self, pairs: LaggedPairs, observables: FeatureMap | None = None) -> Moments:
        """Moments of the fitted features over pairs at any lag, per block."""
        pairs = self._as_in_fit(pairs)
        return estimate_moments(self.model.f, self.model.g, pairs, observables=observables, n_blocks=MOMENT_BLOCKS)

    def _observed(self, observables: FeatureMap) -> Moments:
        """Moments with the projections of observables; those of the states are kept, others need the frames."""
        if observables is not flat_state or "H_f" not in self.moments:
            return self.feature_moments(self.known_split("to project observables on").pairs, observables)
        if self.model.standardize.periodic:
            names = self.moments.observable_names
            angles = ", ".join(str(names[i] if names else i) for i in self.model.standardize.periodic)
            warnings.warn(
                f"of periodic coordinates ({angles}) the mean number says little, for it jumps at the seam: give "
                "observables, such as lambda x: torch.cat([x.cos(), x.sin()], dim=1).",
                stacklevel=4,
            )
        return self.moments

    def estimate_moments(self, X: Any, observables: FeatureMap | None = None) -> Moments:
        """Moments of the fitted features on other trajectories or pairs at the lag of the fit."""
        return clocked(self.feature_moments(self.pairs_of(X), observables), self.model)

    def compute_spectrum(self, X: Any) -> xr.Dataset:
        """Spectrum of the fitted features on other trajectories, `koopman_spectrum` of their moments."""
        return model_spectrum(self.model, self.estimate_moments(X))

    def was_fitted_to(self, X: Any) -> bool:
        """Whether these trajectories give the very pairs of the fit, by their fingerprint."""
        return self.pairs_of(X).fingerprint() == self.fitted.fingerprint

    def pairs_of(self, X: Any, weights: Any = None) -> LaggedPairs:
        """Pairs of other trajectories at the lag of the fit, in its units; pairs stay as they are.

        They count both ways where those of the fit did; `weights` as in `lagged_pairs`.
        """
        clock = self.clock
        if isinstance(X, LaggedPairs):
            return self._as_in_fit(X if weights is None else X.weighted(weights))
        how = () if clock.lag is None else (clock.lag, clock.dt, clock.time_unit)
        return self._as_in_fit(lagged_pairs(X, *how, check_constant=False, weights=weights))

    def _as_in_fit(self, pairs: LaggedPairs) -> LaggedPairs:
        self._check_names("data", pairs.coordinate_names)
        return pairs.both_ways() if self.model.is_reversible else pairs

    def _check_names(self, argument: str, names: Sequence[str] | None) -> None:
        """Raise a ValueError for other coordinates than those of the fit, or another order: they are read by place."""
        known = self.moments.observable_names
        if names is None or known is None or tuple(names) == known or len(names) != len(known):
            return
        i = next(i for i, pair in enumerate(zip(names, known, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"{argument} must have the coordinates of the fit in their order, {', '.join(known[:8])}; got "
            f"{', '.join(names[:8])} ({names[i]!r} in the place of {known[i]!r}). Select and rename them."
        )

    def known_split(self, purpose: str) -> Split:
        """The split of the fit, with its frames, or a DataNeededError that says what they are needed for."""
        if self.fitted.split is None:
            raise DataNeededError(
                f"the frames of the fit are needed {purpose}; open the analysis with them: open_analysis(folder, data)."
            )
        return self.fitted.split
