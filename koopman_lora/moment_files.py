"""Moments and validations as Datasets, and back, without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import (
    BLOCK,
    COUNT,
    FEATURE_F,
    FEATURE_G,
    MODE,
    OBSERVABLE,
    SAMPLE,
    SUM_F,
    SUM_F_COLUMN,
    SUM_G,
    SUM_G_COLUMN,
    SUM_H,
    labelled,
)
from koopman_lora.clock import Clock
from koopman_lora.fitted import FittedMoments
from koopman_lora.moments import DEFINITIONS, Moments
from koopman_lora.scores import Validation

_ROW_DIMS = {"f": SUM_F, "g": SUM_G}
_COLUMN_DIMS = {"f": SUM_F_COLUMN, "g": SUM_G_COLUMN, "h": SUM_H}
_SHIFT_DIMS = {"f": FEATURE_F, "g": FEATURE_G, "h": OBSERVABLE}


def moments_dataset(moments: FittedMoments) -> xr.Dataset:
    """Block sums of all parts in one Dataset, with the part's name before that of the moment."""
    variables: dict[str, Any] = {}
    for part, held in moments._asdict().items():
        if held is not None:
            variables |= _moment_variables(held, part)
    labels = moments.everywhere.observable_names
    coords = {} if labels is None else {OBSERVABLE: list(labels)}
    attrs = {
        **moments.everywhere.clock.attrs(),
        "has_names": int(labels is not None),
        **_reversible(moments.everywhere),
    }
    return labelled(variables, attrs, coords)


def _reversible(moments: Moments) -> dict[str, int]:
    return {"is_reversible": int(moments.is_reversible)}


def _moment_variables(moments: Moments, part: str) -> dict[str, Any]:
    block = f"{BLOCK}_{part}"
    variables: dict[str, Any] = {f"{part}.counts": (block, moments.block_counts)}
    for name, sums in moments.block_sums.items():
        (left, _), (right, _) = DEFINITIONS[name]
        # T_ff has f on both sides: the columns of a square matrix have a name of their own
        columns = _ROW_DIMS[right] if right != left and right != "h" else _COLUMN_DIMS[right]
        variables[f"{part}.{name}"] = ((block, _ROW_DIMS[left], columns), sums)
    if moments.block_pairs is not None:
        variables[f"{part}.pairs"] = ((block, COUNT), moments.block_pairs)
    if moments.orientation_sums is not None:
        variables[f"{part}.orientation"] = ((block, FEATURE_F), moments.orientation_sums)
    for side, shift in (moments.shifts or {}).items():
        variables[f"{part}.shift_{side}"] = (_SHIFT_DIMS[side], shift)
    return variables


def moments_of_dataset(dataset: xr.Dataset) -> FittedMoments:
    """The moments that `moments_dataset` made the Dataset of."""
    labels = tuple(map(str, dataset[OBSERVABLE].values)) if dataset.attrs["has_names"] else None
    parts: dict[str, Any] = {}
    for part in FittedMoments._fields:
        held = {
            str(name).removeprefix(f"{part}."): values.values
            for name, values in dataset.data_vars.items()
            if str(name).startswith(f"{part}.")
        }
        parts[part] = _moments_of_variables(held, dataset.attrs, labels) if held else None
    return FittedMoments(**parts)


def _moments_of_variables(
    held: dict[str, np.ndarray], attrs: Mapping[str, Any], labels: tuple[str, ...] | None
) -> Moments:
    counts, orientation, of_pairs = held.pop("counts"), held.pop("orientation", None), held.pop("pairs", None)
    shifts = {side: held.pop(f"shift_{side}") for side in _SHIFT_DIMS if f"shift_{side}" in held}
    return Moments(
        held,
        counts,
        Clock.from_attrs(attrs),
        orientation,
        labels if "H_f" in held else None,
        shifts or None,
        bool(attrs["is_reversible"]),
        of_pairs,
    )


def validation_dataset(validation: Validation) -> xr.Dataset:
    """All of a validation in one Dataset."""
    variables: dict[str, Any] = {
        "sigma": (MODE, validation.sigma),
        "phi": ((SAMPLE, MODE), validation.phi),
        "psi": ((SAMPLE, MODE), validation.psi),
    }
    if validation.weights is not None:
        variables["weights"] = (SAMPLE, validation.weights)
    if validation.of_folds is not None:
        variables["of_folds"] = (MODE, validation.of_folds)
    variables |= _moment_variables(validation.moments, "moments")
    return labelled(variables, {**validation.moments.clock.attrs(), **_reversible(validation.moments)})


def validation_of_dataset(dataset: xr.Dataset) -> Validation:
    """The validation that `validation_dataset` made the Dataset of."""
    prefix = "moments."
    held = {
        str(name).removeprefix(prefix): values.values
        for name, values in dataset.data_vars.items()
        if str(name).startswith(prefix)
    }
    moments = _moments_of_variables(held, dataset.attrs, None)
    weights, of_folds = (dataset[name].values if name in dataset else None for name in ("weights", "of_folds"))
    sigma, phi, psi = (dataset[name].values for name in ("sigma", "phi", "psi"))
    return Validation(sigma, moments, phi, psi, weights, of_folds)
