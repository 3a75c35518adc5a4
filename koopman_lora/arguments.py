"""What arguments must be: whole numbers, positive ones, tensors of real numbers, arrays."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(name: str, value: Any) -> int:
    """The whole number as Python's own, so that torch takes it and a file can hold it.

    Raises
    ------
    ValueError
        For anything but an integer, from Python or from NumPy.

    Examples
    --------
    >>> whole("n_epochs", np.int64(5))
    5
    >>> whole("n_epochs", 2.5)
    Traceback (most recent call last):
    ValueError: n_epochs must be an integer; got 2.5.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer; got {value!r}.")
    return int(value)


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


def real_tensor(name: str, values: Any) -> Tensor:
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
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        # a copy: in the byte order of the machine, writable, and contiguous
        values = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    if not isinstance(values, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a tensor or an array; got {type(values).__name__}. Use torch.tensor({name}).")
    if isinstance(values, np.ndarray) or not values.is_floating_point():
        raise TypeError(f"{name} must hold real floating-point numbers; got {values.dtype}.")
    return values


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


def as_array(values: Any) -> np.ndarray:
    """Numbers as a float64 array: a tensor on any device, with or without gradient, an array, a list.

    Examples
    --------
    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.])
    """
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)


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
