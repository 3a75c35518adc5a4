"""Slow coordinates of any states: few numbers instead of the whole state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import MODE, SAMPLE, check_result, labelled, provenance
from koopman_lora.checks import checked
from koopman_lora.clock import CLOCK_ATTRS, Clock
from koopman_lora.data.arrays import as_states
from koopman_lora.kinds import finite_array
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.spectrum import evaluate_functions

COORDINATES = ("K_matrix", "canonical")


@checked
def coarse_coordinates(
    model: KoopmanLoRAModel, spectrum: xr.Dataset, x: Any, method: str = "K_matrix", n_modes: int | None = None
) -> xr.DataArray:
    """Slow coordinates of states, whether or not the states were in the training data.

    Parameters
    ----------
    model : KoopmanLoRAModel
    spectrum : Dataset of `compute_koopman_spectrum` for this model
    x : array or tensor (n_samples, *state)
    method : 'K_matrix' or 'canonical'
        The features, scaled by the square roots of the learned singular values where there are any, times U of the SVD
        of K_matrix; or the canonical left singular functions phi, which are orthonormal and independent of the basis.
    n_modes : keep the leading ones only

    Returns
    -------
    DataArray (sample, mode)

    Raises
    ------
    ValueError
        For another method, or a spectrum of a model with another number of modes.

    References
    ----------
    docs/mathematics.md, section 4.

    Examples
    --------
    >>> from koopman_lora.spectrum import compute_koopman_spectrum
    >>> model, x = KoopmanLoRAModel(2, 3).eval(), torch.randn(64, 2)
    >>> coarse_coordinates(model, compute_koopman_spectrum(model, [(x, x)]), x).dims
    ('sample', 'mode')
    """
    if method not in COORDINATES:
        raise ValueError(f"method must be 'K_matrix' or 'canonical'; got {method!r}.")
    check_result(
        "spectrum", spectrum, "compute_koopman_spectrum", "feature_f", "U", "phi_coefficients", attrs=CLOCK_ATTRS
    )
    if spectrum.sizes["feature_f"] != model.n_modes:
        raise ValueError(f"spectrum is of {spectrum.sizes['feature_f']} features; the model has {model.n_modes}.")
    with torch.no_grad():
        features = finite_array("features of x", model.f(as_states(x, model.state_shape)))
    if method == "canonical":
        values = evaluate_functions(features, spectrum["phi_coefficients"])
    else:
        # U belongs to features scaled by sqrt(svals): scaled here exactly once
        scale = np.sqrt(spectrum["svals"].values) if "svals" in spectrum else 1.0
        values = (features * scale) @ spectrum["U"].values
    attrs = provenance(method=method, **Clock.from_attrs(spectrum.attrs).attrs())
    return labelled({"coarse": ((SAMPLE, MODE), values[:, :n_modes])})["coarse"].assign_attrs(attrs)
