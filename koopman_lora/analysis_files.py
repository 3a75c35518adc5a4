"""A fitted analysis in a folder: safetensors, NetCDF and JSON, versioned; no code, nothing of another fit mixed in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from koopman_lora._labels import (
    BLOCK,
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
from koopman_lora.data.splits import SplitRecipe
from koopman_lora.findings import Finding
from koopman_lora.fitted import Fitted, FittedMoments
from koopman_lora.io import load_dataset, load_model, save_dataset, save_model, write_whole
from koopman_lora.moments import DEFINITIONS, Moments
from koopman_lora.refinement import RefinementResult
from koopman_lora.scores import Validation

FORMAT = "koopman_lora.analysis.v1"
RECORD, MODEL, MOMENTS, VALIDATION = "analysis.json", "model.safetensors", "moments.nc", "validation.nc"
SPECTRUM, HISTORY = "spectrum.nc", "history.nc"
_ENTRIES = ("split", "fingerprint", "seed", "refinement", "findings", "settings", "files")
_ROW_DIMS = {"f": SUM_F, "g": SUM_G}
_COLUMN_DIMS = {"f": SUM_F_COLUMN, "g": SUM_G_COLUMN, "h": SUM_H}
_SHIFT_DIMS = {"f": FEATURE_F, "g": FEATURE_G, "h": OBSERVABLE}


def write_fitted(fitted: Fitted, spectrum: xr.Dataset, folder: str | os.PathLike) -> pathlib.Path:
    """Write all but the frames into `folder`; the record with the checksums of the other files comes last.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    save_model(fitted.model, folder / MODEL)
    save_dataset(_moments_dataset(fitted.moments), folder / MOMENTS)
    save_dataset(spectrum, folder / SPECTRUM)
    save_dataset(fitted.history, folder / HISTORY)
    files = [MODEL, MOMENTS, SPECTRUM, HISTORY]
    if fitted.validation is not None:
        save_dataset(_validation_dataset(fitted.validation), folder / VALIDATION)
        files.append(VALIDATION)
    record = _record(fitted) | {"files": {name: _checksum(folder / name) for name in files}}
    text = json.dumps(record, indent=2, allow_nan=True, default=_plain)
    write_whole(folder / RECORD, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder


def read_fitted(
    folder: str | os.PathLike, encoder_f: nn.Module | None = None, encoder_g: nn.Module | None = None
) -> Fitted:
    """Read what `write_fitted` wrote; there is no split, whose frames are not in the folder.

    Raises
    ------
    FileNotFoundError
        If there is no record.
    ValueError
        If the folder is none of ours, or one of its files is not that of the record.
    """
    folder = pathlib.Path(folder)
    record = _checked_record(folder)
    moments = _moments_of_dataset(load_dataset(folder / MOMENTS))
    validation = None
    if VALIDATION in record["files"]:
        validation = _validation_of_dataset(load_dataset(folder / VALIDATION))
    return Fitted(
        model=load_model(folder / MODEL, encoder_f, encoder_g),
        moments=moments,
        validation=validation,
        refinement=_refinement_of_record(record["refinement"], validation),
        findings=tuple(Finding(**finding) for finding in record["findings"]),
        history=load_dataset(folder / HISTORY),
        recipe=SplitRecipe(**record["split"]),
        fingerprint=record["fingerprint"],
        seed=record["seed"],
        settings=record["settings"],
        split=None,
    )


def _plain(value: Any) -> Any:
    """What JSON can hold of a value: numbers of numpy as plain ones, else text."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def _checksum(path: pathlib.Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _checked_record(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {RECORD}; give a folder that KoopmanLoRA.save or `koopman-lora fit` wrote."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record.get("format")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); save the analysis again.") from None
    if found != FORMAT:
        raise ValueError(f"{str(path)!r} is not an analysis of this koopman_lora; its format is {found!r}.")
    lacking = [name for name in _ENTRIES if name not in record]
    lacking = lacking or [name for name in (MODEL, MOMENTS, SPECTRUM, HISTORY) if name not in record["files"]]
    if lacking:
        raise ValueError(f"{str(path)!r} is damaged (it lacks {', '.join(lacking)}); save the analysis again.")
    for name, checksum in record["files"].items():
        if not (folder / name).exists() or _checksum(folder / name) != checksum:
            raise ValueError(
                f"{str(folder / name)!r} is missing, damaged, or of another fit than {RECORD}; save the analysis again."
            )
    return record


# ------------------------------------------------------------------------------------------------------------- record


def _record(fitted: Fitted) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "clock": fitted.model.clock.attrs(),
        "split": dataclasses.asdict(fitted.recipe),
        "fingerprint": fitted.fingerprint,
        "seed": int(fitted.seed),
        "refinement": _refinement_record(fitted.refinement),
        "findings": [finding._asdict() for finding in fitted.findings],
        "settings": dict(fitted.settings),
    }


def _refinement_record(result: RefinementResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    numbers = {name: getattr(result, name) for name in ("is_refined", "threshold", "score_before", "score_after")}
    return numbers | {name: getattr(result, name).tolist() for name in ("thresholds", "scores")}


def _refinement_of_record(record: Mapping[str, Any] | None, validation: Validation | None) -> RefinementResult | None:
    if record is None or validation is None:
        return None
    arrays = {name: np.array(record[name], dtype=float) for name in ("thresholds", "scores")}
    return RefinementResult(**{**record, **arrays}, validation=validation)


# ------------------------------------------------------------------------------------------------------------ moments


def _moments_dataset(moments: FittedMoments) -> xr.Dataset:
    """Block sums of all parts in one Dataset, with the part's name before that of the moment."""
    variables: dict[str, Any] = {}
    for part, held in moments._asdict().items():
        if held is not None:
            variables |= _moment_variables(held, part)
    labels = moments.everywhere.observable_names
    coords = {} if labels is None else {OBSERVABLE: list(labels)}
    attrs = {**moments.everywhere.clock.attrs(), "has_names": int(labels is not None)}
    return labelled(variables, attrs, coords)


def _moment_variables(moments: Moments, part: str) -> dict[str, Any]:
    block = f"{BLOCK}_{part}"
    variables: dict[str, Any] = {f"{part}.counts": (block, moments.block_counts)}
    for name, sums in moments.block_sums.items():
        (left, _), (right, _) = DEFINITIONS[name]
        # T_ff has f on both sides: the columns of a square matrix have a name of their own
        columns = _ROW_DIMS[right] if right != left and right != "h" else _COLUMN_DIMS[right]
        variables[f"{part}.{name}"] = ((block, _ROW_DIMS[left], columns), sums)
    if moments.orientation_sums is not None:
        variables[f"{part}.orientation"] = ((block, FEATURE_F), moments.orientation_sums)
    for side, shift in (moments.shifts or {}).items():
        variables[f"{part}.shift_{side}"] = (_SHIFT_DIMS[side], shift)
    return variables


def _moments_of_dataset(dataset: xr.Dataset) -> FittedMoments:
    labels = tuple(map(str, dataset[OBSERVABLE].values)) if dataset.attrs["has_names"] else None
    parts: dict[str, Any] = {}
    for part in FittedMoments._fields:
        held = {
            str(name).removeprefix(f"{part}."): values.values
            for name, values in dataset.data_vars.items()
            if str(name).startswith(f"{part}.")
        }
        parts[part] = _moments_of_variables(held, Clock.from_attrs(dataset.attrs), labels) if held else None
    return FittedMoments(**parts)


def _moments_of_variables(held: dict[str, np.ndarray], clock: Clock, labels: tuple[str, ...] | None) -> Moments:
    counts, orientation = held.pop("counts"), held.pop("orientation", None)
    shifts = {side: held.pop(f"shift_{side}") for side in _SHIFT_DIMS if f"shift_{side}" in held}
    return Moments(held, counts, clock, orientation, labels if "H_f" in held else None, shifts or None)


# --------------------------------------------------------------------------------------------------------- validation


def _validation_dataset(validation: Validation) -> xr.Dataset:
    variables: dict[str, Any] = {
        "sigma": (MODE, validation.sigma),
        "phi": ((SAMPLE, MODE), validation.phi),
        "psi": ((SAMPLE, MODE), validation.psi),
    }
    variables |= _moment_variables(validation.moments, "moments")
    return labelled(variables, validation.moments.clock.attrs())


def _validation_of_dataset(dataset: xr.Dataset) -> Validation:
    prefix = "moments."
    held = {
        str(name).removeprefix(prefix): values.values
        for name, values in dataset.data_vars.items()
        if str(name).startswith(prefix)
    }
    moments = _moments_of_variables(held, Clock.from_attrs(dataset.attrs), None)
    return Validation(dataset["sigma"].values, moments, dataset["phi"].values, dataset["psi"].values)
