"""What values must be: whole numbers, finite ones, arrays of them, positions; each is refused by its name.

Torch is not imported: a tensor is told by what it can do.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np

# Whole numbers beyond this count nothing that fits into a memory.
MOST = 2**31 - 1
# Numbers whose products with each other are finite.
LARGEST = 1e150


def whole(name: str, value: Any) -> int:
    """The whole number as Python's own, so that torch takes it and a file can hold it.

    Raises
    ------
    ValueError
        For anything but an integer, from Python or from NumPy, and for one beyond all counts.

    Examples
    --------
    >>> whole("n_epochs", np.int64(5))
    5
    >>> whole("n_epochs", 2.5)
    Traceback (most recent call last):
    ValueError: n_epochs must be an integer; got 2.5.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer; got {shown(value)}.")
    if abs(int(value)) > MOST:
        raise ValueError(f"{name} must be an integer of at most {MOST}; got {shown(value)}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """The finite number as Python's own; a whole one stays whole.

    Examples
    --------
    >>> number("tolerance", np.float32(0.5))
    0.5
    >>> number("tolerance", float("nan"))
    Traceback (most recent call last):
    ValueError: tolerance must be a finite number; got nan.
    """
    if not is_real(value):
        raise ValueError(f"{name} must be a number; got {shown(value)}.")
    if not np.isfinite(float(value)):
        raise ValueError(f"{name} must be a finite number; got {shown(value)}.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def share(name: str, value: Any) -> float:
    """A number from 0 to below 1, such as a threshold relative to the largest.

    Examples
    --------
    >>> share("threshold", 2)
    Traceback (most recent call last):
    ValueError: threshold must be at least 0 and below 1; got 2.
    """
    if not 0 <= number(name, value) < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {shown(value)}.")
    return number(name, value)


Share = Annotated[float, share]


def seed(name: str, value: Any) -> int:
    """A whole number of at least 0, as NumPy's generators take it.

    Examples
    --------
    >>> seed("seed", -1)
    Traceback (most recent call last):
    ValueError: seed must be at least 0; got -1.
    """
    if whole(name, value) < 0:
        raise ValueError(f"{name} must be at least 0; got {value}.")
    return int(value)


Seed = Annotated[int, seed]


def count(name: str, value: Any) -> int:
    """A whole number of at least 1.

    Examples
    --------
    >>> count("n_modes", 0)
    Traceback (most recent call last):
    ValueError: n_modes must be at least 1; got 0.
    """
    if whole(name, value) < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")
    return int(value)


Count = Annotated[int, count]


def is_real(value: Any) -> bool:
    """Whether a value is a real number, of Python or NumPy; True and False are none."""
    is_bounded = not isinstance(value, numbers.Integral) or abs(int(value)) <= MOST  # as NumPy takes it
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) and is_bounded


def flag(name: str, value: Any) -> bool:
    """True or False, of Python or NumPy.

    Examples
    --------
    >>> flag("refit", "yes")
    Traceback (most recent call last):
    TypeError: refit must be True or False; got 'yes'.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {shown(value)}.")
    return bool(value)


def finite_array(name: str, values: Any) -> np.ndarray:
    """Finite numbers as an array that every library takes: from an array, a tensor, a list, a frame.

    Raises
    ------
    TypeError
        For what is no rectangular array of numbers.
    ValueError
        For NaN, infinite or masked entries.

    Examples
    --------
    >>> finite_array("P", [[0.5, np.nan]])
    Traceback (most recent call last):
    ValueError: P must be finite; 1 of 2 entries are not, the first at (0, 1).
    """
    array = number_array(name, values)
    is_finite = np.isfinite(array)
    if not is_finite.all():
        first = tuple(int(i) for i in np.argwhere(~is_finite)[0])
        n_bad = array.size - np.count_nonzero(is_finite)
        raise ValueError(f"{name} must be finite; {n_bad} of {array.size} entries are not, the first at {first}.")
    return array


def number_array(name: str, values: Any) -> np.ndarray:
    """Numbers as an array that every library takes, whether finite or not; see `finite_array`.

    Examples
    --------
    >>> number_array("x", np.ones(2, dtype=">f2")).dtype
    dtype('float64')
    """
    if hasattr(values, "detach"):  # a tensor, with or without gradient, on any device
        values = _tensor_values(name, values)
    if not hasattr(values, "__array__") and not isinstance(values, (list, tuple, range, numbers.Number)):
        raise TypeError(f"{name} must be an array of numbers; got {shown(values)}.")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name} must not have masked entries; {np.ma.count_masked(values)} are. Fill or drop them.")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a rectangular array of numbers; got {shown(values)}.") from None
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be an array of numbers; got one of dtype {array.dtype}.")
    if array.dtype.kind in "fc" and array.dtype.itemsize not in ((4, 8) if array.dtype.kind == "f" else (8, 16)):
        array = array.astype(float if array.dtype.kind == "f" else complex)  # which LAPACK and torch know
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def moderate_array(name: str, values: Any) -> np.ndarray:
    """Finite numbers of a size that sums of products bear; see `finite_array`.

    Examples
    --------
    >>> moderate_array("weights", [1e200])
    Traceback (most recent call last):
    ValueError: weights must be below 1e+150; got entries of up to 1e+200.
    """
    array = finite_array(name, values)
    if array.size and float(np.abs(array).max()) > LARGEST:
        raise ValueError(f"{name} must be below {LARGEST:g}; got entries of up to {np.abs(array).max():g}.")
    return array


def real_array(name: str, values: Any) -> np.ndarray:
    """Finite real numbers in double precision; see `finite_array`.

    Examples
    --------
    >>> real_array("P", [[1, 0]])
    array([[1., 0.]])
    """
    array = finite_array(name, values)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must be an array of real numbers; got one of dtype {array.dtype}.")
    return array.astype(float, copy=False)


def positions(name: str, values: Any) -> np.ndarray:
    """Positions, or a mask, along one axis.

    Examples
    --------
    >>> positions("index", [0, 2])
    array([0, 2])
    """
    array = number_array(name, values)
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise TypeError(f"{name} must be positions or a mask, of one axis; got {array.dtype} of shape {array.shape}.")
    return array


def check_word(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise a ValueError that lists the known words if the value is none of them.

    Examples
    --------
    >>> check_word("side", "top", ("left", "right"))
    Traceback (most recent call last):
    ValueError: side must be one of 'left', 'right'; got 'top'.
    """
    if isinstance(value, (list, tuple)) or np.ndim(value) > 0 or value not in list(known):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {shown(value)}.")


def check_positions(name: str, values: np.ndarray, n: int) -> None:
    """Raise a ValueError unless positions, or a mask, fit to n things.

    Examples
    --------
    >>> check_positions("blocks", np.array([0, 7]), 7)
    Traceback (most recent call last):
    ValueError: blocks must be positions below 7, or a mask (7,); got int64 of shape (2,).
    """
    is_mask = values.dtype == bool
    if (is_mask and len(values) != n) or (not is_mask and (((values >= n) | (values < -n)).any())):
        raise ValueError(
            f"{name} must be positions below {n}, or a mask ({n},); got {values.dtype} of shape {values.shape}."
        )


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless an array or a dense tensor has this shape.

    Examples
    --------
    >>> check_shape("left", np.zeros((2, 3)), (2, 2))
    Traceback (most recent call last):
    ValueError: left must have shape (2, 2); got (2, 3).
    """
    if getattr(array, "is_sparse", False) or getattr(array, "is_meta", False):
        raise TypeError(f"{name} must be a dense tensor with data; got {array.layout} on {array.device}.")
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}; got {tuple(array.shape)}.")


def check_matrices(
    name: str, array: Any, n_rows: int | None = None, n_columns: int | None = None, is_one: bool = False
) -> None:
    """Raise a ValueError unless an array holds matrices, behind any leading axes, with so many rows and columns.

    Examples
    --------
    >>> check_matrices("coefficients", np.zeros((2, 3)), n_rows=3)
    Traceback (most recent call last):
    ValueError: coefficients must have shape (3, n); got (2, 3).
    """
    rows, columns = ("n" if n is None else n for n in (n_rows, n_columns))
    is_matrix = array.ndim == 2 if is_one else array.ndim >= 2
    if not is_matrix or rows not in ("n", array.shape[-2]) or columns not in ("n", array.shape[-1]):
        raise ValueError(f"{name} must have shape ({rows}, {columns}); got {tuple(array.shape)}.")


def check_stacks(name: str, stacks: Mapping[str, Any], lead: tuple[int, ...]) -> None:
    """Raise a ValueError unless all are matrices (*lead, k, k'), finite, and so small that their products are.

    Examples
    --------
    >>> check_stacks("block_sums", {"M_f": np.ones((3, 2, 2))}, (3,))
    """
    for key, values in stacks.items():
        if not isinstance(values, np.ndarray) or values.ndim < 3 or values.shape[:-2] != lead:
            raise ValueError(
                f"{name}[{key!r}] must be matrices, one for each of block_counts, {lead}; got {shown(values)}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name}[{key!r}] must be finite; drop what is NaN, or choose a unit of larger size.")


# In an annotation: an array whose entries may be NaN or infinite; one of moderate size; of real numbers; positions.
AnyNumbers = Annotated[np.ndarray, number_array]
Moderate = Annotated[np.ndarray, moderate_array]
Reals = Annotated[np.ndarray, real_array]
Positions = Annotated[np.ndarray, positions]


def _tensor_values(name: str, tensor: Any) -> Any:
    try:
        return tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, without data, in bfloat16
        raise TypeError(f"{name} must be an array of numbers; of this tensor there is none ({error}).") from None


def text(name: str, value: Any) -> str:
    """A text, or a TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text; got {shown(value)}.")
    return value


def path(name: str, value: Any) -> Any:
    """A path that is not empty, or an error."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path; got {shown(value)}.")
    if not os.fspath(value):
        raise ValueError(f"{name} must be a path; got an empty text.")
    return value


def shown(value: Any) -> str:
    """What came, short enough for a message.

    Examples
    --------
    >>> shown(2.5), shown(np.zeros((2, 3))), shown([1, 2])
    ('2.5', 'an array of shape (2, 3)', '[1, 2]')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype") and np.ndim(value) > 0:
        return f"an array of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else type(value).__name__
