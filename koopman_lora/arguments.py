"""What arguments must be beyond their annotations: positive numbers, tensors of real numbers, plain values."""

from __future__ import annotations

import contextlib
import copy
import numbers
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora.kinds import number as number
from koopman_lora.kinds import real_array, shown
from koopman_lora.kinds import whole as whole


def check_positive(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a positive number or None.

    Examples
    --------
    >>> check_positive("patience", None)
    >>> check_positive("patience", 0)
    Traceback (most recent call last):
    ValueError: patience must be positive; got 0.
    """
    if value is None:
        return
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number; got {value!r}.")
    if not float(value) > 0:
        raise ValueError(f"{name} must be positive; got {value}.")


@contextlib.contextmanager
def told_as(name: str, *inner: str) -> Iterator[None]:
    """Errors that begin with the name of an inner argument begin with the one that the user gave.

    Examples
    --------
    >>> with told_as("sample_weight", "weights"):
    ...     check_positive("weights", 0)
    Traceback (most recent call last):
    ValueError: sample_weight must be positive; got 0.
    """
    try:
        yield
    except (TypeError, ValueError, OSError) as error:
        said = str(error)
        told = re.sub(rf"^({'|'.join(inner)})\b", name, said)
        if told != said:
            error.args = (told,)
        raise


def real_tensor(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """A tensor of real numbers as it is, an array of them as a tensor of its own.

    Raises
    ------
    TypeError
        For anything else, and for integers, which a network would cut its numbers to.

    Examples
    --------
    >>> real_tensor("x", np.zeros((5, 2))).shape
    torch.Size([5, 2])
    >>> real_tensor("x", [0.0])
    Traceback (most recent call last):
    TypeError: x must be a tensor or an array; got list. Use torch.tensor(x).
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        # a copy: in the byte order of the machine, writable, and contiguous
        values = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    if not isinstance(values, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a tensor or an array; got {type(values).__name__}. Use torch.tensor({name}).")
    if values.ndim == 0:
        raise TypeError(f"{name} must hold several states; got a single number.")
    if isinstance(values, np.ndarray) or not values.is_floating_point() or values.is_sparse:
        raise TypeError(f"{name} must hold real floating-point numbers; got {values.dtype}.")
    if values.is_meta and device != values.device:
        raise TypeError(f"{name} must hold numbers; got a tensor without data, on {values.device}.")
    return values


def copied(name: str, module: Any) -> Any:
    """A copy of a module of the user's, which is never trained itself; None where there is none."""
    try:
        return copy.deepcopy(module)
    except TypeError:
        raise TypeError(f"{name} must be a module that can be copied; got {type(module).__name__}.") from None


def pair_of(name: str, value: Any) -> tuple[Any, Any]:
    """Two things in a tuple or a list, such as a batch (x, x_next).

    Examples
    --------
    >>> pair_of("batches", [1, 2])
    (1, 2)
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be of pairs (x, x_next); got {shown(value)}.")
    return value[0], value[1]


def in_batches(size: int, **sides: Tensor) -> Iterator[tuple[Any, ...]]:
    """Batches of several tensors of one length, side by side.

    Examples
    --------
    >>> [len(a) for a, _ in in_batches(2, a=torch.zeros(3), b=torch.zeros(3))]
    [2, 1]
    """
    check_positive("batch_size", size)
    check_tensors(**sides)
    if len({side.shape[:1] for side in sides.values()}) > 1 or any(side.ndim == 0 for side in sides.values()):
        got = " and ".join(str(tuple(side.shape)) for side in sides.values())
        raise ValueError(f"{' and '.join(sides)} must hold equally many states; got shapes {got}.")
    return zip(*(side.split(size) for side in sides.values()), strict=True)


def check_tensors(**values: Any) -> None:
    """Raise a TypeError unless all are tensors: of an array no gradient can be taken.

    Examples
    --------
    >>> check_tensors(f=np.zeros(3))
    Traceback (most recent call last):
    TypeError: f must be a tensor; got ndarray. Use torch.as_tensor(f).
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}. Use torch.as_tensor({name}).")
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor; got {value.layout}.")
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(f"{name} must hold floating-point numbers; got {value.dtype}. Use {name}.float().")


def as_svals(values: Any, n_modes: int, least: float = 0.0) -> np.ndarray:
    """Singular values (n_modes,) in double precision: from a tensor, with or without gradient, an array, a list.

    Examples
    --------
    >>> as_svals(torch.ones(2, requires_grad=True), 2)
    array([1., 1.])
    """
    svals = real_array("svals", values)
    if svals.shape != (n_modes,):
        raise ValueError(f"svals must have shape ({n_modes},), one per feature; got {svals.shape}.")
    if (svals < least).any() or (svals > 1e100).any():
        raise ValueError(f"svals must be at least {least:g}, and of ordinary size; got {svals}.")
    return svals


def as_plain(value: Any) -> Any:
    """Python's own number for one of NumPy's, also inside a tuple or a list: what a file can hold.

    Examples
    --------
    >>> as_plain((np.int64(3), "GELU"))
    (3, 'GELU')
    """
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(as_plain, value)) if type(value) in (tuple, list) else value
