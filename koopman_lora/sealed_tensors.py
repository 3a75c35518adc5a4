"""Tensors and texts in one safetensors file with a checksum; nothing in it is ever executed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from koopman_lora.data.seals import checksum, told_of


class Sealed(NamedTuple):
    """What such a file holds: named tensors, and texts, of which `format` says what they are."""

    tensors: dict[str, Tensor]
    texts: dict[str, str]


def sealed_bytes(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """The content of a file, with a checksum of names, shapes, texts and numbers among the texts.

    Parameters
    ----------
    tensors : dense, none sharing memory with another
    texts : with `format`
    """
    held, stated = dict(tensors), dict(texts)
    stated["checksum"] = _checksum(safetensors.torch.save(held, stated))
    return safetensors.torch.save(held, stated)


def read_sealed(path: pathlib.Path, form: str, what: str) -> Sealed:
    """Read a file of `sealed_bytes`, once: later changes of the file are not those of the tensors.

    Parameters
    ----------
    form : the only format that is taken
    what : it is, for the message, such as 'a model'

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        If it is of another format, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist.")
    with told_of(path):
        content = path.read_bytes()
        texts = _header(content)[0].get("__metadata__", {})
        if texts.get("format") != form:
            found = texts.get("format")
            raise ValueError(f"{str(path)!r} is not {what} of koopman_lora; its format is {found!r}.")
        if texts.get("checksum") != _checksum(content):
            raise ValueError(f"{str(path)!r} is damaged: its checksum is another than when it was written.")
        return Sealed(safetensors.torch.load(content), texts)


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header of a safetensors file, and the rest of it."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def _checksum(content: bytes) -> str:
    """Of names, shapes, texts and numbers; the checksum itself, which stands among them, left out."""
    header, numbers = _header(content)
    texts = {name: value for name, value in header["__metadata__"].items() if name != "checksum"}
    return checksum(json.dumps(header | {"__metadata__": texts}, sort_keys=True).encode(), numbers)
