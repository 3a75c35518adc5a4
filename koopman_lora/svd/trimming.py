"""Fewer triples of a decomposition, after a look at its singular values; nothing is fitted again."""

from __future__ import annotations

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE, MODE_COLUMN
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.kinds import shown
from koopman_lora.svd.orthogonality import orthogonality_error
from koopman_lora.svd.results import largest_relative_error, off_diagonal


def trim_result(result: xr.Dataset, n: int) -> xr.Dataset:
    """The leading n triples of a result, with the errors that these have; the history of training stays.

    Raises
    ------
    ValueError
        Unless n is from 1 to the number of triples.

    References
    ----------
    docs/mathematics.md, section 8.

    Examples
    --------
    >>> result = kl.NeuralSVD(n_modes=2).fit(np.diag([4.0, 3.0])).to_dataset()
    >>> round(float(trim_result(result, 1)["error_reconstruction"]), 6)
    0.6
    """
    n_modes = result.sizes[MODE]
    if not isinstance(n, (int, np.integer)) or not 1 <= n <= n_modes:
        raise ValueError(f"n must be an integer from 1 to the {n_modes} modes of this result; got {shown(n)}.")
    kept = result.isel({MODE: slice(n), MODE_COLUMN: slice(n)})
    values, core = kept["singular_values"].values, kept["core"].values
    errors = {
        "reconstruction": _with_dropped(result, "reconstruction", n),
        "eckart_young": _with_dropped(result, "eckart_young", n),
        "orthogonality_u": orthogonality_error(kept["U"].values),
        "orthogonality_v": orthogonality_error(conjugate_transpose(kept["Vh"].values)),
        "singular_values": largest_relative_error(values, kept["singular_values_error"].values),
        "core": off_diagonal(core, values),
    }
    return kept.assign({f"error_{name}": value for name, value in errors.items()}).assign_attrs(
        n_modes=int(n), energy="None"
    )


def _with_dropped(result: xr.Dataset, name: str, n: int) -> float:
    """An error with the energy of the triples that are dropped added to it."""
    error, norm = float(result[f"error_{name}"]), float(result.attrs["matrix_norm"])
    if norm == 0 or np.isnan(error):
        return error
    if name == "eckart_young":
        dropped = np.square(result["singular_values_exact"].values[n:] / norm)
    else:  # ||R + s u v^H||^2 = ||R||^2 + s^2 + 2 s Re(u^H R v), with R = H - U S V^H
        values = result["singular_values"].values[n:].astype(np.float64) / norm
        diagonal = np.diagonal(result["core"].values)[n:] / norm
        dropped = values**2 + 2 * values * (diagonal - values)
    return float(np.sqrt(max(error**2 + dropped.sum(), 0.0)))
