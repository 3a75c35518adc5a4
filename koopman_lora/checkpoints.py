"""`Checkpoints`: the last two whole states of a training run, in a folder, and whose they are."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.seals import told_of
from koopman_lora.data.whole_files import remove_leftovers, write_whole
from koopman_lora.kinds import shown
from koopman_lora.sealed_tensors import read_sealed, sealed_bytes

FORMAT = "koopman_lora.checkpoint.v1"
NEWEST, PREVIOUS = "newest.safetensors", "previous.safetensors"
# Stands in the JSON of a state for a tensor, with its name: as it is, as an array, or with complex numbers as pairs.
_TENSOR, _ARRAY, _COMPLEX = "tensor", "array", "complex tensor"
_MARKS = (_TENSOR, _ARRAY, _COMPLEX)

logger = logging.getLogger(__name__)


class Checkpoints:
    """States of one training run in a folder: the newest, and the one before it should the newest be damaged.

    A state is nested dicts and lists of plain values, tensors and arrays; it comes back with the same bits.

    Parameters
    ----------
    folder : made where it is not there; nothing but the two files is touched
    identity : what the run depends on, name to plain value; a state of another run is refused
    every : seconds between two states

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder, {"seed": 0}, every=60)
    ...     path = checkpoints.save({"step": 3, "weights": [torch.ones(2)]})
    ...     checkpoints.load()
    {'step': 3, 'weights': [tensor([1., 1.])]}
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any], every: float) -> None:
        self.folder, self.every = pathlib.Path(folder), every
        self.identity = json.loads(json.dumps(identity))  # as it will be read
        self._last, self._newest_is_whole = time.monotonic(), False

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._last >= self.every

    def check_unused(self) -> None:
        """Refuse to start over what another run left.

        Raises
        ------
        FileExistsError
            If the folder has a state.
        """
        if (path := next((path for path in self._files() if path.exists()), None)) is not None:
            raise FileExistsError(
                f"checkpoint {str(path)!r} is of an earlier fit; go on with it by resume=True, give another folder, or "
                "remove it."
            )

    def save(self, state: Mapping[str, Any]) -> pathlib.Path:
        """Write a state; it is the newest as soon as it is whole, and the one that was newest is kept.

        Raises
        ------
        TypeError
            For a state that holds more than plain values and tensors.
        OSError
            If it cannot be written.
        """
        newest, previous = self._files()
        tensors: dict[str, Tensor] = {}
        record = {"identity": self.identity, "torch": torch.__version__, "state": _packed(state, tensors, "")}
        content = sealed_bytes(tensors, {"format": FORMAT, "record": json.dumps(record)})

        def write(temporary: pathlib.Path) -> None:
            temporary.write_bytes(content)
            if self._newest_is_whole and newest.exists():  # else the one before is all that there is
                newest.replace(previous)

        self._last = time.monotonic()  # also of an attempt
        try:
            write_whole(newest, write)
        except OSError as error:
            raise OSError(f"checkpoint {str(newest)!r} cannot be written: {error}.") from error
        self._newest_is_whole = True
        logger.info("checkpoint of %d bytes written to %s", len(content), newest)
        return newest

    def load(self) -> Any:
        """The newest whole state; None where there is none at all.

        Warns
        -----
        UserWarning
            If the newest is damaged, and the one before it is used.

        Raises
        ------
        ValueError
            If all are damaged, or the state is of another run: it says what differs.
        """
        if self.folder.is_dir():
            remove_leftovers(self.folder / NEWEST)  # here, for a run that is done is not saved again
        damaged: list[str] = []
        for path in self._files():
            if not path.exists():
                continue
            try:
                record, state = _read(path)
            except ValueError as error:
                damaged.append(str(error))
                continue
            self._check_identity(path, record["identity"])
            if damaged:
                warnings.warn(f"{damaged[0]} The one before it, {str(path)!r}, is used.", stacklevel=2)
            if record["torch"] != torch.__version__:
                logger.warning("%s was written by torch %s: later digits may differ", path, record["torch"])
            self._newest_is_whole = path.name == NEWEST
            return state
        if damaged:
            raise ValueError(
                f"no checkpoint in {str(self.folder)!r} is whole: {' '.join(damaged)} Remove them to start."
            )
        return None

    def _files(self) -> tuple[pathlib.Path, pathlib.Path]:
        return self.folder / NEWEST, self.folder / PREVIOUS

    def _check_identity(self, path: pathlib.Path, found: Mapping[str, Any]) -> None:
        names = [name for name in {**found, **self.identity} if found.get(name) != self.identity.get(name)]
        if not names:
            return
        told = []
        for name in names:
            there, here = (identity.get(name) for identity in (found, self.identity))
            is_short = len(str(there)) < 30 and len(str(here)) < 30
            told.append(f"{name} is {shown(there)} there and {shown(here)} here" if is_short else f"{name} differ")
        raise ValueError(
            f"{str(path)!r} is of another fit: {'; '.join(told)}. Go on with what it was started with, or give another "
            "folder."
        )


def _read(path: pathlib.Path) -> tuple[dict[str, Any], Any]:
    tensors, texts = read_sealed(path, FORMAT, "a checkpoint")
    with told_of(path):
        record = json.loads(texts["record"])
        return record, _unpacked(record["state"], tensors)


def _packed(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A nested value as JSON can hold it; its tensors go to `tensors`, each in memory of its own."""
    if isinstance(value, Mapping):
        return {str(key): _packed(entry, tensors, f"{name}/{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(entry, tensors, f"{name}/{i}") for i, entry in enumerate(value)]
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(value.copy())
        return {_ARRAY: name}
    if isinstance(value, Tensor):
        held = value.detach().cpu().resolve_conj()
        held = torch.view_as_real(held) if held.is_complex() else held
        tensors[name] = held.clone(memory_format=torch.contiguous_format)
        return {_COMPLEX if value.is_complex() else _TENSOR: name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds plain values and tensors; got {shown(value)} at {name}.")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested value of `_packed`, tuples as lists."""
    if isinstance(value, list):
        return [_unpacked(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value), None)
    if len(value) == 1 and mark in _MARKS and isinstance(value[mark], str):
        tensor = tensors[value[mark]]
        return torch.view_as_complex(tensor) if mark == _COMPLEX else tensor.numpy() if mark == _ARRAY else tensor
    return {key: _unpacked(entry, tensors) for key, entry in value.items()}
