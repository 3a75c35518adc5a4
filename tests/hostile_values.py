"""Hostile values: what users pass by mistake in place of a valid argument, by the kind of the valid one."""

import dataclasses
import numbers

import numpy as np
import pandas as pd
import torch
import xarray as xr

import koopman_lora as kl

HUGE = 10**12


def anything():
    """What is hostile in every place, made anew for each call."""
    return {
        "None": None,
        "text": "nonsense",
        "empty text": "",
        "bytes": b"x",
        "object": object(),
        "complex number": 3 + 4j,
        "empty list": [],
        "empty dict": {},
        "a set": {1, 2},
        "empty generator": (i for i in ()),
        "generator": (float(i) for i in range(3)),
        "ragged list": [[1.0, 2.0], [3.0]],
        "list of text": ["a", "b"],
        "NaN": float("nan"),
        "function": len,
        "a class": dict,
        "date": np.datetime64("2020-01-01"),
        "frame": pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        "0-d array": np.array(1.0),
        "empty array": np.zeros((0, 2)),
        "labelled": xr.DataArray(np.zeros((2, 2)), dims=("p", "q")),
    }


def of_number(value):
    """In place of a number."""
    return {
        "minus one": -1,
        "zero": 0,
        "huge": HUGE,
        "thousand million": 10**9,
        "beyond 64 bits": 10**30,
        "half more": value + 0.5,
        "as float": float(value),
        "as text": str(value),
        "true": True,
        "int64": np.int64(value),
        "float32": np.float32(value),
        "float16": np.float16(value),
        "long double": np.longdouble(value),
        "infinite": float("inf"),
        "minus infinite": -float("inf"),
        "1e300": 1e300,
        "1e-300": 1e-300,
        "in a list": [value],
        "in an array": np.array([value]),
        "tensor": torch.tensor(value),
        "larger": value + 7,
    }


def of_array(array, wrap=np.asarray):
    """In place of an array; `wrap` makes of each what was there, a tensor or a labelled array."""
    array = np.asarray(array)
    bad = np.array(array, dtype=complex if np.iscomplexobj(array) else float)
    made = {
        "transposed": array.T,
        "no rows": array[:0],
        "one row": array[:1],
        "one more axis": array[None],
        "flat": array.ravel(),
        "narrower": array[..., :-1],
        "wider": np.concatenate([array, array], axis=-1) if array.ndim else array,
        "constant": np.ones_like(array),
        "zeros": np.zeros_like(array),
        "negative": -bad,
        "whole numbers": np.real(bad).round().astype(int),
        "bytes 0 to 255": np.abs(np.real(bad)).astype(np.uint8),
        "booleans": np.real(bad) > 0,
        "complex": bad * (1 + 1j),
        "float16": np.real(bad).astype(np.float16),
        "Fortran order": np.asfortranarray(array),
        "not contiguous": np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array,
        "1e300": bad * 1e300,
        "1e-300": bad * 1e-300,
        "1e20": bad * 1e20,
    }
    for name, value in (("NaN inside", np.nan), ("infinity inside", np.inf)):
        made[name] = bad.copy()
        made[name].flat[:1] = value
    made["all NaN"] = np.full_like(bad, np.nan)
    made = {name: wrap(value) for name, value in made.items()}
    frozen = array.copy()
    frozen.setflags(write=False)
    made |= {
        "as text": array.astype(str),
        "objects": array.astype(object),
        "long double": np.real(bad).astype(np.longdouble),
        "big-endian": bad.astype(bad.dtype.newbyteorder(">")),
        "read-only": frozen,
        "list": array.tolist(),
        "generator of rows": (row for row in (array if array.ndim else [])),
        "masked": np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) == 0),
        "no entry masked": np.ma.masked_array(array),
        "tensor": torch.from_numpy(bad.copy()),
        "tensor with gradient": torch.from_numpy(bad.copy()).requires_grad_(),
        "tensor of whole numbers": torch.from_numpy(np.real(bad).round().astype(int)),
        "plain array": array.copy(),
        "labelled array": xr.DataArray(array),
        "records": np.zeros(3, dtype=[("a", float)]),
        "meta tensor": torch.zeros(array.shape, device="meta"),
        "sparse tensor": torch.from_numpy(bad.copy()).to_sparse(),
    }
    if array.ndim == 2:
        made |= {"frame of numbers": pd.DataFrame(array), "matrix": np.matrix(array)}
    return made


def of_tensor(tensor):
    """In place of a tensor, in its precision."""

    def wrap(values):
        made = torch.from_numpy(np.ascontiguousarray(values))
        return made.to(tensor.dtype) if made.dtype == torch.float64 else made

    made = of_array(tensor.detach().numpy(), wrap)
    return made | {"double": tensor.double(), "bfloat16": tensor.bfloat16(), "not a leaf": 1.0 * tensor}


def of_labelled(array):
    """In place of a DataArray."""
    made = of_array(array.values, lambda values: array.copy(data=values) if values.shape == array.shape else values)
    first = array.dims[0]
    return made | {
        "renamed": array.rename({first: "other"}),
        "without coordinates": array.drop_vars(list(array.coords)),
        "without attributes": array.drop_attrs(),
        "one entry": array.isel({first: slice(0, 1)}),
        "no entry": array.isel({first: slice(0, 0)}),
        "a Dataset": array.to_dataset(name="value"),
    }


def of_dataset(dataset):
    """In place of a Dataset of results."""
    names = sorted(dataset.data_vars, key=str)
    made = {
        "empty Dataset": xr.Dataset(),
        "without attributes": dataset.drop_attrs(),
        "without coordinates": dataset.drop_vars(list(dataset.coords)),
        "first variable alone": dataset[names[0]],
        "a dict": dict(dataset),
        "array": np.zeros((3, 3)),
    }
    made |= {f"without {name}": dataset.drop_vars(name) for name in names}
    for dim in dataset.dims:
        made |= {f"{dim} renamed": dataset.rename({dim: "other"}), f"no {dim}": dataset.isel({dim: slice(0, 0)})}
    return made


def of_moments(moments):
    """In place of moments."""
    change = dataclasses.replace
    sums = moments.block_sums
    made = {
        "a Moments class": kl.Moments,
        "its sums": dict(sums),
        "one block": moments.pooled(),
        "few blocks": moments.selected(np.arange(min(3, moments.n_blocks))),
        "no block": moments.selected(np.arange(0)),
        "resampled": moments.reweighted(np.ones((2, moments.n_blocks))),
        "backward": moments.time_reversed(),
        "of zeros": change(moments, block_sums={n: 0 * s for n, s in sums.items()}),
        "plain sums": kl.Moments({n: s[..., 1:, 1:] for n, s in sums.items()}, moments.block_counts, moments.clock),
        "no clock": change(moments, clock=kl.Clock()),
        "complex": change(moments, block_sums={n: s.astype(complex) for n, s in sums.items()}),
        "one feature": moments.transformed(*np.eye(moments.M_f.shape[-1])[:2, :, None]),
        "all alike": moments.transformed(*2 * [np.ones((moments.M_f.shape[-1],) * 2)]),
    }
    made |= {f"without {n}": change(moments, block_sums={k: s for k, s in sums.items() if k != n}) for n in sums}
    for scale in (1e120, 1e-300, 1e20):
        made[f"times {scale}"] = change(moments, block_sums={n: scale * s for n, s in sums.items()})
    return made


def of_pairs(pairs):
    """In place of lagged pairs."""
    change = dataclasses.replace
    return {
        "tuple": (pairs.x, pairs.x_next),
        "tuple of arrays": (pairs.x.numpy(), pairs.x_next.numpy()),
        "three tensors": (pairs.x,) * 3,
        "list of tuples": [(pairs.x, pairs.x_next)],
        "x alone": pairs.x,
        "array": pairs.x.numpy(),
        "no pair": pairs.select(np.arange(0)),
        "one pair": pairs.select(np.arange(1)),
        "two pairs": pairs.select(np.arange(2)),
        "one coordinate": pairs.with_states(pairs.x[:, :1], pairs.x_next[:, :1]),
        "1e20": pairs.with_states(1e20 * pairs.x, 1e20 * pairs.x_next),
        "1e-30": pairs.with_states(1e-30 * pairs.x, 1e-30 * pairs.x_next),
        "constant": pairs.with_states(0 * pairs.x + 1, 0 * pairs.x + 1),
        "single precision": pairs.with_states(pairs.x.float(), pairs.x_next.float()),
        "no clock": change(pairs, clock=kl.Clock()),
    }


def of_function(function):
    """In place of a feature map or another function of the user's."""
    return {
        "gives None": lambda *_: None,
        "gives text": lambda *_: "nonsense",
        "gives a number": lambda *_: 1.0,
        "gives one axis": lambda x, *_: torch.as_tensor(function(x))[:, 0],
        "gives three axes": lambda x, *_: function(x)[..., None],
        "gives too few rows": lambda x, *_: function(x)[:1],
        "gives no column": lambda x, *_: function(x)[:, :0],
        "gives NaN": lambda x, *_: function(x) * float("nan"),
        "gives infinity": lambda x, *_: function(x) + float("inf"),
        "gives 1e300": lambda x, *_: function(x) * 1e300,
        "gives 1e-300": lambda x, *_: function(x) * 1e-300,
        "gives whole numbers": lambda x, *_: torch.as_tensor(function(x)).round().long(),
        "gives booleans": lambda x, *_: torch.as_tensor(function(x)) > 0,
        "gives a list": lambda x, *_: torch.as_tensor(function(x)).tolist(),
        "gives complex": lambda x, *_: torch.as_tensor(function(x)) * (1 + 1j),
        "gives a constant": lambda x, *_: torch.as_tensor(function(x)) * 0 + 1,
        "wants a gradient": lambda x, *_: torch.as_tensor(function(x)).requires_grad_(),
    }


def of_sequence(values):
    """In place of a list or tuple: the whole of it, and its first entry."""
    kind = type(values)
    rest = list(values[1:])
    made = {
        "none": kind([]),
        "twice": kind([*values, *values]),
        "reversed": kind(values[::-1]),
        "its first": values[0],
        "one entry": kind(values[:1]),
        "generator of them": (v for v in values),
        "as a set": set(values) if all(isinstance(v, (int, str)) for v in values) else {1},
        "nested": [values, values],
    }
    return made | {f"first: {name}": kind([value, *rest]) for name, value in hostile(values[0]).items()}


def of_text(value):
    """In place of a text."""
    return {"upper case": value.upper(), "a number": 5, "in a list": [value], "numpy text": np.str_(value), "nul": "\0"}


def of_flag(value):
    """In place of True or False."""
    return {"zero": 0, "one": 1, "two": 2, "as text": str(value), "numpy": np.bool_(value), "list": [value]}


def of_module(module):
    """In place of a network or a loss."""
    return {
        "its class": type(module),
        "other width": torch.nn.Linear(7, 7),
        "identity": torch.nn.Identity(),
        "half": torch.nn.Linear(2, 3).half(),
        "not initialised": torch.nn.LazyLinear(3),
    }


def hostile(value):
    """Hostile values by name, in place of one that is valid."""
    found = anything()
    for kind, make in KINDS.items():
        if isinstance(value, kind):
            return found | make(value)
    return found | of_function(value) if callable(value) else found


KINDS = {
    (bool, np.bool_): of_flag,
    numbers.Real: of_number,
    str: of_text,
    torch.Tensor: of_tensor,
    xr.DataArray: of_labelled,
    xr.Dataset: of_dataset,
    np.ndarray: of_array,
    kl.Moments: of_moments,
    kl.LaggedPairs: of_pairs,
    torch.nn.Module: of_module,
    (list, tuple): lambda values: of_sequence(values) if len(values) else {},
}
