"""Arrays, tensors, lists and labelled arrays as checked tensors (n, *state)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.arguments import told_as
from koopman_lora.data.containers import unpacked

_TWO_PARTS = (
    "Complex data not supported: give real and imaginary parts as two coordinates: np.stack([z.real, z.imag], axis=-1)."
)


class ComplexDataError(TypeError, ValueError):
    """States must be real."""


def labelled_parts(data: Any) -> list[xr.DataArray]:
    """The DataArrays among the parts of `data`."""
    parts = data if isinstance(data, (list, tuple)) else [data]
    return [part for part in parts if isinstance(part, xr.DataArray)]


def checked_values(values: Any, name: str) -> np.ndarray | Tensor:
    """Real numbers as an array or a dense tensor with a time axis, nothing of them masked; not copied."""
    if hasattr(values, "toarray") and hasattr(values, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix, and sparse input is not supported; give {name}.toarray().")
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta:
            raise TypeError(f"{name} must be a dense tensor with data; got {values.layout} on {values.device}.")
        values = values.detach().cpu()
    elif not isinstance(values, np.ndarray):
        try:
            values = np.asarray(values)
        except ValueError:
            raise TypeError(f"{name} is not a rectangular array of numbers.") from None
    if isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim:
        values = _numbers_of_objects(values, name)
    real_dtype(values.dtype, name)
    if isinstance(values, np.ma.MaskedArray):
        _check_mask(values, name)
    if values.ndim == 0:
        raise ValueError(f"{name} must have a time axis; got a single number.")
    return values


def real_dtype(dtype: Any, name: str) -> torch.dtype:
    """The precision that holds numbers of an array or a tensor: integers become floating point, nothing is lost.

    Examples
    --------
    >>> real_dtype(np.dtype("i2"), "x"), real_dtype(torch.int32, "x")
    (torch.float32, torch.float64)
    """
    is_of_torch = isinstance(dtype, torch.dtype)
    if dtype.is_complex if is_of_torch else dtype.kind == "c":
        raise ComplexDataError(f"{name} must hold real numbers; got dtype {dtype}. {_TWO_PARTS}")
    if dtype == torch.bool if is_of_torch else dtype.kind not in "fiu":
        convert = ".double()" if is_of_torch else ".astype(float)"
        raise TypeError(
            f"{name} must hold real numbers; got dtype {dtype}. Convert with {convert}, if they are numbers."
        )
    if is_of_torch and dtype.itemsize <= 2:
        return torch.float32
    if is_of_torch:
        return dtype if dtype.is_floating_point else torch.float64
    # float16 and long double have no torch counterpart worth training in; float32 holds integers up to 2**24
    return torch.float32 if dtype.itemsize <= (4 if dtype.kind == "f" else 2) else torch.float64


def without_copy(values: np.ndarray | Tensor, dtype: torch.dtype) -> Tensor:
    """An array as a tensor of real numbers, a view where torch can have one."""
    if isinstance(values, Tensor):
        return values.to(dtype)
    wanted = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
    values = np.asarray(values, dtype=wanted)
    if not values.flags.writeable or any(stride < 0 or stride % wanted.itemsize for stride in values.strides):
        values = values.copy()
    return torch.from_numpy(values).to(dtype)


def _numbers_of_objects(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers that were kept as Python objects, as those of tables with mixed columns are."""
    try:
        return values.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers; got dtype object: {error}.") from None


def _check_mask(values: np.ma.MaskedArray, name: str) -> None:
    masked = np.ma.getmaskarray(values)
    bad = masked.reshape(len(masked), -1).any(axis=1) if masked.ndim else masked[None]
    if bad.any():
        raise ValueError(
            f"{name} holds masked entries at frame {int(bad.argmax())} ({int(bad.sum())} such frames); masked means "
            "missing: cut the trajectory there into two, or fill the gap."
        )


def check_same_shape(shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise a ValueError unless states of all trajectories, of shapes (n, *state), have one shape and are not empty."""
    states = [shape[1:] for shape in shapes]
    if len(set(states)) > 1:
        other = next(i for i, s in enumerate(states) if s != states[0])
        raise ValueError(
            f"all trajectories must have one state shape; trajectory 0 has {states[0]}, "
            f"trajectory {other} has {states[other]}."
        )
    if 0 in states[0]:
        raise ValueError(
            f"states must not be empty; got 0 feature(s) (shape={shapes[0]}) while a minimum of 1 is required."
        )


def check_finite(values: Tensor, name: str, first: int = 0) -> None:
    """Raise a ValueError that names the first frame of states (n, *state), counted from `first`, that is not finite."""
    # NaN and infinity survive sums, which take no memory; those of finite numbers may overflow
    if len(values) == 0 or bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values).flatten(1).all(1)
    frame = first + int(bad.nonzero()[0])
    raise ValueError(
        f"{name} holds NaN or inf at frame {frame} ({int(bad.sum())} such frames); "
        "cut the trajectory there into two, or fill the gap."
    )


def common_names(arrays: Sequence[xr.DataArray]) -> tuple[str, ...] | None:
    """Names along the vector states of trajectories, the same for all that have some, or None where there are none.

    Raises
    ------
    ValueError
        If they differ: columns in another order would be read as each other.
    """
    known = [(names, array) for array in arrays if (names := coordinate_names(array)) is not None]
    for names, array in known:
        if names != known[0][0]:
            first, other = (f"{_source(one)}{', '.join(said[:8])}" for said, one in (known[0], (names, array)))
            raise ValueError(f"all trajectories must have the same coordinates in one order; got {first}; and {other}.")
    return known[0][0] if known else None


def _source(array: xr.DataArray) -> str:
    return f"{array.encoding['source']}: " if "source" in array.encoding else ""


def coordinate_names(data: xr.DataArray) -> tuple[str, ...] | None:
    """Names along a vector state, or None where there are none."""
    state_dims = [d for d in data.dims if d not in (TRAJECTORY, TIME)]
    if len(state_dims) != 1 or state_dims[0] not in data.coords:
        return None
    return tuple(str(v) for v in data[state_dims[0]].values)


def names_of(states: Any) -> tuple[str, ...] | None:
    """Names of the coordinates of labelled states (n, d), or None where there are none.

    Examples
    --------
    >>> names_of(xr.DataArray(np.zeros((3, 2)), dims=("n", "coordinate"), coords={"coordinate": ["u", "v"]}))
    ('u', 'v')
    """
    if isinstance(states, xr.DataArray) and states.ndim == 2 and states.dims[-1] in states.coords:
        return tuple(map(str, states[states.dims[-1]].values))
    return None


def check_constant_columns(batches: Iterable[Tensor], names: Sequence[str] | None) -> None:
    """Raise a ValueError that lists the coordinates that never change in batches of states (n, d).

    Batches are read until every coordinate has changed.
    """
    first: Tensor | None = None
    n, constant = 0, torch.zeros(0, dtype=torch.bool)
    for states in batches:
        if states.ndim != 2:
            return
        if first is None:
            first, constant = states[0].clone(), torch.ones(states.shape[1], dtype=torch.bool)
        n += len(states)
        constant &= (states == first).all(0)
        if not constant.any():
            return
    if n < 2:
        return
    found = constant.nonzero().flatten().tolist()
    named = [f"{i} ({names[i]})" if names else str(i) for i in found]
    raise ValueError(
        f"data has constant columns: {', '.join(named)}. They carry no dynamics; drop them "
        "(or pass check_constant=False to lagged_pairs)."
    )


def as_states(x: Any, state_shape: tuple[int, ...]) -> Tensor:
    """States as a tensor (n, *state) from numpy, torch or labelled data; numbers are scalar states.

    Raises
    ------
    TypeError
        For anything but real numbers.
    ValueError
        If the shape of a state does not fit, or states hold NaN, inf or masked entries.

    Examples
    --------
    >>> as_states([1.0, 2.0], (1,)).shape
    torch.Size([2, 1])
    """
    with told_as("x", "data"):
        x = unpacked(x)
    if isinstance(x, xr.DataArray):
        x = x.values
    values = checked_values(x, "x")
    states = without_copy(values, real_dtype(values.dtype, "x") if isinstance(values, Tensor) else torch.float64)
    if states.ndim == 1 and state_shape == (1,):
        states = states[:, None]
    if tuple(states.shape[1:]) != state_shape:
        raise ValueError(f"x must have shape (n, {', '.join(map(str, state_shape))}); got {tuple(states.shape)}.")
    check_finite(states, "x")
    return states
