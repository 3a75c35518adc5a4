"""Arrays, tensors, lists and labelled arrays as checked tensors (n, *state)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TIME, TRAJECTORY


def labelled_parts(data: Any) -> list[xr.DataArray]:
    """The DataArrays among the parts of `data`."""
    parts = data if isinstance(data, (list, tuple)) else [data]
    return [part for part in parts if isinstance(part, xr.DataArray)]


def as_trajectories(data: Any) -> list[Tensor]:
    """Trajectories (time, *state) of one state shape, all finite; raises what `lagged_pairs` documents."""
    parts = data if isinstance(data, list) else [data]
    if len(parts) == 0:
        raise ValueError("data is an empty list; give at least one trajectory (time, *state).")
    data = [values for part in parts for values in _split_labelled(part)]
    trajectories = [_as_tensor(values, f"trajectory {i}") for i, values in enumerate(data)]
    _check_same_shape(trajectories)
    for i, values in enumerate(trajectories):
        _check_finite(values, f"trajectory {i}")
    return trajectories


def _split_labelled(data: Any) -> list[Any]:
    if not isinstance(data, xr.DataArray):
        return [data]
    if TIME not in data.dims:
        raise ValueError(f"data must have a dimension 'time'; got dimensions {data.dims}. Rename one with .rename().")
    if TRAJECTORY in data.dims:
        return list(data.transpose(TRAJECTORY, TIME, ...).values)
    return [data.transpose(TIME, ...).values]


def _as_tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, xr.DataArray):
        values = (values.transpose(TIME, ...) if TIME in values.dims else values).values
    values = values if isinstance(values, Tensor) else torch.from_numpy(_real_array(values, name))
    values = _real_tensor(values, name).detach().cpu()
    if values.ndim == 0:
        raise ValueError(f"{name} must have a time axis; got a single number.")
    return values[:, None] if values.ndim == 1 else values


def _real_array(values: Any, name: str) -> np.ndarray:
    """A copy in a precision that torch knows: integers become floating point, nothing is lost on the way."""
    if not isinstance(values, np.ndarray):
        try:
            values = np.asarray(values)
        except ValueError:
            raise TypeError(f"{name} is not a rectangular array of numbers.") from None
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers; got dtype {values.dtype}. {_remedy(values.dtype.kind)}")
    if isinstance(values, np.ma.MaskedArray):
        _check_mask(values, name)
    # float16 and long double have no torch counterpart worth training in; float32 holds integers up to 2**24
    single = 4 if values.dtype.kind == "f" else 2
    return np.array(values, dtype=np.float32 if values.dtype.itemsize <= single else np.float64)


def _remedy(kind: str) -> str:
    if kind == "c":
        return "Give real and imaginary parts as two coordinates: np.stack([z.real, z.imag], axis=-1)."
    return "Convert with .astype(float), if they are numbers."


def _real_tensor(values: Tensor, name: str) -> Tensor:
    """Real numbers as they are, integers in floating point."""
    if values.layout != torch.strided or values.is_meta:
        raise TypeError(f"{name} must be a dense tensor with data; got {values.layout} on {values.device}.")
    if values.is_complex() or values.dtype == torch.bool:
        advice = _remedy("c") if values.is_complex() else "Convert with .double(), if they are numbers."
        raise TypeError(f"{name} must hold real numbers; got dtype {values.dtype}. {advice}")
    if values.is_floating_point():
        return values
    return values.float() if values.element_size() <= 2 else values.double()


def _check_mask(values: np.ma.MaskedArray, name: str) -> None:
    masked = np.ma.getmaskarray(values)
    bad = masked.reshape(len(masked), -1).any(axis=1) if masked.ndim else masked[None]
    if bad.any():
        raise ValueError(
            f"{name} holds masked entries at frame {int(bad.argmax())} ({int(bad.sum())} such frames); masked means "
            "missing: cut the trajectory there into two, or fill the gap."
        )


def _check_same_shape(trajectories: Sequence[Tensor]) -> None:
    shapes = [tuple(t.shape[1:]) for t in trajectories]
    if len(set(shapes)) > 1:
        other = next(i for i, s in enumerate(shapes) if s != shapes[0])
        raise ValueError(
            f"all trajectories must have one state shape; trajectory 0 has {shapes[0]}, "
            f"trajectory {other} has {shapes[other]}."
        )
    if 0 in shapes[0]:
        raise ValueError(f"states must not be empty; got state shape {shapes[0]}.")


def _check_finite(values: Tensor, name: str) -> None:
    finite = torch.isfinite(values)
    if not finite.all():
        bad = ~finite.flatten(1).all(1)
        frame = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} holds NaN or inf at frame {frame} ({int(bad.sum())} such frames); "
            "cut the trajectory there into two, or fill the gap."
        )


def explicit_sides(data: tuple) -> tuple[Tensor, Tensor]:
    """Explicit pairs `(x, x_next)` as two checked tensors (n_pairs, *state) of one precision."""
    if len(data) != 2:
        raise ValueError(f"data as a tuple must be (x, x_next); got {len(data)} entries. Put trajectories in a list.")
    x, x_next = _as_tensor(data[0], "x"), _as_tensor(data[1], "x_next")
    if x.shape != x_next.shape:
        raise ValueError(f"x and x_next must have one shape; got {tuple(x.shape)} and {tuple(x_next.shape)}.")
    if len(x) == 0:
        raise ValueError("x and x_next are empty; give at least one pair.")
    _check_same_shape([x])
    _check_finite(x, "x")
    _check_finite(x_next, "x_next")
    dtype = torch.promote_types(x.dtype, x_next.dtype)
    return x.to(dtype), x_next.to(dtype)


def coordinate_names(data: xr.DataArray) -> tuple[str, ...] | None:
    """Names along a vector state, or None where there are none."""
    state_dims = [d for d in data.dims if d not in (TRAJECTORY, TIME)]
    if len(state_dims) != 1 or state_dims[0] not in data.coords:
        return None
    return tuple(str(v) for v in data[state_dims[0]].values)


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
    if isinstance(x, xr.DataArray):
        x = x.values
    states = _real_tensor(x, "x") if isinstance(x, Tensor) else torch.from_numpy(_real_array(x, "x")).double()
    if states.ndim == 1 and state_shape == (1,):
        states = states[:, None]
    if tuple(states.shape[1:]) != state_shape:
        raise ValueError(f"x must have shape (n, {', '.join(map(str, state_shape))}); got {tuple(states.shape)}.")
    _check_finite(states, "x")
    return states
