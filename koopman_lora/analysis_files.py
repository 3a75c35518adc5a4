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

from koopman_lora.data.seals import checksum, told_of
from koopman_lora.data.splits import SplitRecipe
from koopman_lora.data.whole_files import check_replaceable, move_whole, remove_leftovers, write_whole
from koopman_lora.finding import Finding
from koopman_lora.fitted import KEPT_ENTRIES, MOMENT_BLOCKS, Fitted
from koopman_lora.io import load_dataset, load_model, plain, save_dataset, save_model
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moment_files import moments_dataset, moments_of_dataset, validation_dataset, validation_of_dataset
from koopman_lora.refinement import RefinementResult
from koopman_lora.scores import Validation
from koopman_lora.survey import Survey

# v2: a checksum of the record; v3: other facts of a refinement; v4: is_reversible; v5: several fits, the survey, what a
# refinement was chosen by; v6: weights of pairs
FORMAT = "koopman_lora.analysis.v6"
RECORD, MODEL, MOMENTS, VALIDATION = "analysis.json", "model.safetensors", "moments.nc", "validation.nc"
SPECTRUM, HISTORY, FITS = "spectrum.nc", "history.nc", "fits.nc"
FILES = (SPECTRUM, HISTORY, MODEL, MOMENTS, VALIDATION, FITS)
INCOMPLETE = "incomplete"  # the folder inside where files lie until all are whole
_ENTRIES = ("split", "fingerprint", "seed", "refinement", "findings", "survey", "settings", "files", "checksum")
_OVERHEAD = 100_000  # of the formats, and of history and record


def write_fitted(fitted: Fitted, spectrum: xr.Dataset, seen: Survey | None, folder: str | os.PathLike) -> pathlib.Path:
    """Write all but the frames into `folder`, where an older analysis stays whole until the new one is.

    Parameters
    ----------
    seen : what the frames say of the modes

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
        MOMENTS: lambda path: save_dataset(moments_dataset(fitted.moments), path),
    }
    if (validation := fitted.validation) is not None:
        writers[VALIDATION] = lambda path: save_dataset(validation_dataset(validation), path)
    if (fits := fitted.fits) is not None:
        writers[FITS] = lambda path: save_dataset(fits, path)
    fitted = dataclasses.replace(fitted, survey=seen)
    _move_all(folder)  # of a save that was killed while it did so
    _write_all(writers, staging)
    _write_all({RECORD: lambda path: _write_record(fitted, list(writers), path)}, staging, tuple(writers))
    _move_all(folder)
    for name in (*FILES, RECORD):
        remove_leftovers(staging / name)
    with contextlib.suppress(OSError):  # there may be a file of the user's in it
        staging.rmdir()
    return folder


def _move_all(folder: pathlib.Path) -> None:
    """Move a complete analysis to its place, if there is one; the record, which has all checksums, comes last."""
    staging = folder / INCOMPLETE
    if (staging / RECORD).exists():
        for name in (*FILES, RECORD):
            if (staging / name).exists():
                move_whole(staging / name, folder / name)


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
    places = _Places(pathlib.Path(folder))
    record = _checked_record(places)
    model = load_model(places / MODEL, encoder_f, encoder_g)
    with told_of(folder, "save the analysis again"):
        return _fitted_of_record(record, model, places)


class _Places:
    """Where the files of the newest whole analysis lie: `places / name`.

    A save that was killed while it moved its files, all of which were whole by then, has left the rest of them, and the
    record in any case, in the folder inside.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.is_moving = folder, (folder / INCOMPLETE / RECORD).exists()

    def __truediv__(self, name: str) -> pathlib.Path:
        rest = self.folder / INCOMPLETE / name
        return rest if self.is_moving and rest.exists() else self.folder / name


def _fitted_of_record(record: Mapping[str, Any], model: KoopmanLoRAModel, folder: _Places) -> Fitted:
    validation = None
    if VALIDATION in record["files"]:
        validation = validation_of_dataset(load_dataset(folder / VALIDATION))
    return Fitted(
        model=model,
        moments=moments_of_dataset(load_dataset(folder / MOMENTS)),
        validation=validation,
        refinement=_refinement_of_record(record["refinement"], validation),
        findings=_findings_of_record(record["findings"]),
        fits=load_dataset(folder / FITS) if FITS in record["files"] else None,
        survey=_survey_of_record(record["survey"]),
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


def _checked_record(places: _Places) -> dict[str, Any]:
    path = places / RECORD
    if not path.exists():
        raise FileNotFoundError(
            f"{str(places.folder)!r} holds no {RECORD}; give a folder that KoopmanLoRA.save or `koopman-lora fit` "
            "wrote."
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
        if not (places / name).exists() or _checksum(places / name) != stated:
            raise ValueError(
                f"{str(places / name)!r} is missing, damaged, or of another fit than {RECORD}; save the analysis again."
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
        "survey": _survey_record(fitted.survey),
        "settings": dict(fitted.settings),
    }


def _survey_record(seen: Survey | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {"transitions": list(seen.transitions), "findings": [finding._asdict() for finding in seen.findings]}


def _survey_of_record(record: Mapping[str, Any] | None) -> Survey | None:
    if record is None:
        return None
    return Survey(tuple(record["transitions"]), _findings_of_record(record["findings"]))


def _findings_of_record(record: Sequence[Mapping[str, str]]) -> tuple[Finding, ...]:
    return tuple(Finding(**finding) for finding in record)


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
