"""A fitted analysis in a folder: safetensors, NetCDF and JSON, versioned; no code, nothing of another fit mixed in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
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
from koopman_lora.data.seals import checksum, told_of
from koopman_lora.data.splits import SplitRecipe
from koopman_lora.data.whole_files import check_replaceable, move_whole, write_whole
from koopman_lora.findings import Finding
from koopman_lora.fitted import KEPT_ENTRIES, MOMENT_BLOCKS, Fitted, FittedMoments
from koopman_lora.io import load_dataset, load_model, plain, save_dataset, save_model
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import DEFINITIONS, Moments
from koopman_lora.refinement import RefinementResult
from koopman_lora.scores import Validation

# v2: a checksum of the record; v3: other facts of a refinement; v4: is_reversible; v5: what a refinement was chosen by
FORMAT = "koopman_lora.analysis.v5"
RECORD, MODEL, MOMENTS, VALIDATION = "analysis.json", "model.safetensors", "moments.nc", "validation.nc"
SPECTRUM, HISTORY = "spectrum.nc", "history.nc"
FILES = (SPECTRUM, HISTORY, MODEL, MOMENTS, VALIDATION)
INCOMPLETE = "incomplete"  # the folder inside where files lie until all are whole
_ENTRIES = ("split", "fingerprint", "seed", "refinement", "findings", "settings", "files", "checksum")
_OVERHEAD = 100_000  # of the formats, and of history and record
_ROW_DIMS = {"f": SUM_F, "g": SUM_G}
_COLUMN_DIMS = {"f": SUM_F_COLUMN, "g": SUM_G_COLUMN, "h": SUM_H}
_SHIFT_DIMS = {"f": FEATURE_F, "g": FEATURE_G, "h": OBSERVABLE}


def write_fitted(fitted: Fitted, spectrum: xr.Dataset, folder: str | os.PathLike) -> pathlib.Path:
    """Write all but the frames into `folder`, where an older analysis stays whole until the new one is.

    Raises
    ------
    OSError
        If a file cannot be written; those that can are kept in `folder`/incomplete, and named.
    """
    folder = pathlib.Path(folder)
    check_analysis_folder(folder)
    staging = folder / INCOMPLETE
    writers: dict[str, Callable[[pathlib.Path], Any]] = {
        SPECTRUM: lambda path: save_dataset(spectrum, path),
        HISTORY: lambda path: save_dataset(fitted.history, path),
        MODEL: lambda path: save_model(fitted.model, path),
        MOMENTS: lambda path: save_dataset(_moments_dataset(fitted.moments), path),
    }
    if (validation := fitted.validation) is not None:
        writers[VALIDATION] = lambda path: save_dataset(_validation_dataset(validation), path)
    _write_all(writers, staging)
    _write_all({RECORD: lambda path: _write_record(fitted, list(writers), path)}, staging, tuple(writers))
    for name in (*writers, RECORD):  # the record, which has the checksums of the others, comes last
        move_whole(staging / name, folder / name)
    with contextlib.suppress(OSError):  # there may be a file of the user's in it
        staging.rmdir()
    return folder


def _write_all(
    writers: Mapping[str, Callable[[pathlib.Path], Any]], staging: pathlib.Path, whole: tuple[str, ...] = ()
) -> None:
    """Write every file that can be written, and only then say which could not."""
    failed: dict[str, OSError] = {}
    for name, write in writers.items():
        try:
            (staging / name).unlink(missing_ok=True)  # of an attempt before
            write(staging / name)
        except OSError as error:
            failed[name] = error
    if not failed:
        return
    whole += tuple(name for name in writers if name not in failed)
    kept = f"{', '.join(whole)} in {str(staging)!r}" if whole else "none"
    reason = next(iter(failed.values()))
    raise OSError(
        f"the analysis is not complete: {', '.join(failed)} cannot be written ({reason}); whole files: {kept}. Make "
        "room, or save to another folder."
    ) from reason


def check_analysis_folder(folder: pathlib.Path) -> None:
    """Refuse, before the work, a folder in which something else has the name of a file of an analysis.

    Raises
    ------
    OSError
        If it does.
    """
    for name in (*FILES, RECORD):
        check_replaceable(folder / name)


def analysis_bytes(n_modes: int, n_entries: int, n_held_out: int, hidden_dims: Sequence[int]) -> int:
    """Estimate of the size of a saved analysis on disk: weights, moments per block, functions of held-out pairs.

    Parameters
    ----------
    n_modes, n_entries : of the model, and of a state
    n_held_out : number of held-out pairs

    Examples
    --------
    >>> round(analysis_bytes(n_modes=8, n_entries=2, n_held_out=1000, hidden_dims=(64, 128, 64)) / 1e6, 1)
    0.7
    """
    widths = (n_entries, *hidden_dims, n_modes)
    weights = 2 * 4 * sum((a + 1) * b for a, b in pairwise(widths))
    observables = 2 * n_entries if n_entries <= KEPT_ENTRIES else 0
    moments = 8 * (MOMENT_BLOCKS + 2) * n_modes * (9 * n_modes + observables)
    return weights + moments + 8 * 2 * n_modes * n_held_out + _OVERHEAD


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
    model = load_model(folder / MODEL, encoder_f, encoder_g)
    with told_of(folder, "save the analysis again"):
        return _fitted_of_record(record, model, folder)


def _fitted_of_record(record: Mapping[str, Any], model: KoopmanLoRAModel, folder: pathlib.Path) -> Fitted:
    validation = None
    if VALIDATION in record["files"]:
        validation = _validation_of_dataset(load_dataset(folder / VALIDATION))
    return Fitted(
        model=model,
        moments=_moments_of_dataset(load_dataset(folder / MOMENTS)),
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


def _write_record(fitted: Fitted, files: Sequence[str], path: pathlib.Path) -> None:
    record = _record(fitted) | {"files": {name: _checksum(path.with_name(name)) for name in files}}
    record = json.loads(json.dumps(record, default=plain))  # as it will be read
    text = json.dumps(record | {"checksum": _record_checksum(record)}, indent=2)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _checksum(path: pathlib.Path) -> str:
    return checksum(path.read_bytes())


def _record_checksum(record: Mapping[str, Any]) -> str:
    stated = {name: value for name, value in record.items() if name != "checksum"}
    return checksum(json.dumps(stated, sort_keys=True).encode())


def _checked_record(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {RECORD}; give a folder that KoopmanLoRA.save or `koopman-lora fit` wrote."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); save the analysis again.") from None
    if found != FORMAT:
        raise ValueError(f"{str(path)!r} is not an analysis of this koopman_lora; its format is {found!r}.")
    lacking = [name for name in _ENTRIES if name not in record]
    if lacking:
        raise ValueError(f"{str(path)!r} is damaged (it lacks {', '.join(lacking)}); save the analysis again.")
    if record["checksum"] != _record_checksum(record):
        raise ValueError(f"{str(path)!r} is damaged (its checksum is another); save the analysis again.")
    for name, stated in record["files"].items():
        if not (folder / name).exists() or _checksum(folder / name) != stated:
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
    stated = {name: getattr(result, name) for name in ("start", "threshold", "chosen_by")}
    stated["starts"] = list(result.starts)
    return stated | {name: getattr(result, name).tolist() for name in ("thresholds", "scores")}


def _refinement_of_record(record: Mapping[str, Any] | None, validation: Validation | None) -> RefinementResult | None:
    if record is None or validation is None:
        return None
    arrays = {name: np.array(record[name], dtype=float) for name in ("thresholds", "scores")}
    return RefinementResult(**{**record, **arrays, "starts": tuple(record["starts"])}, validation=validation)


# ------------------------------------------------------------------------------------------------------------ moments


def _moments_dataset(moments: FittedMoments) -> xr.Dataset:
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
        parts[part] = _moments_of_variables(held, dataset.attrs, labels) if held else None
    return FittedMoments(**parts)


def _moments_of_variables(
    held: dict[str, np.ndarray], attrs: Mapping[str, Any], labels: tuple[str, ...] | None
) -> Moments:
    counts, orientation = held.pop("counts"), held.pop("orientation", None)
    shifts = {side: held.pop(f"shift_{side}") for side in _SHIFT_DIMS if f"shift_{side}" in held}
    return Moments(
        held,
        counts,
        Clock.from_attrs(attrs),
        orientation,
        labels if "H_f" in held else None,
        shifts or None,
        bool(attrs["is_reversible"]),
    )


# --------------------------------------------------------------------------------------------------------- validation


def _validation_dataset(validation: Validation) -> xr.Dataset:
    variables: dict[str, Any] = {
        "sigma": (MODE, validation.sigma),
        "phi": ((SAMPLE, MODE), validation.phi),
        "psi": ((SAMPLE, MODE), validation.psi),
    }
    variables |= _moment_variables(validation.moments, "moments")
    return labelled(variables, {**validation.moments.clock.attrs(), **_reversible(validation.moments)})


def _validation_of_dataset(dataset: xr.Dataset) -> Validation:
    prefix = "moments."
    held = {
        str(name).removeprefix(prefix): values.values
        for name, values in dataset.data_vars.items()
        if str(name).startswith(prefix)
    }
    moments = _moments_of_variables(held, dataset.attrs, None)
    return Validation(dataset["sigma"].values, moments, dataset["phi"].values, dataset["psi"].values)
