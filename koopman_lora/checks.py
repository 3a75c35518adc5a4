"""Arguments as their annotations say: the one check at the border, before anything is computed.

It reads the annotations, so that they say no other thing than what is accepted; torch and xarray are not imported.
"""

from __future__ import annotations

import builtins
import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from koopman_lora.kinds import finite_array, flag, number, path, shown, text, whole

# (name, value) -> the value as wanted, or an error that names it.
_Check = Callable[[str, Any], Any]


def checked(function: Any = None, *, but: Collection[str] = ()) -> Any:
    """Make a function, or the constructor and the public methods of a class, hold arguments to their annotations.

    Whole numbers and numbers become Python's own, arrays of numbers become NumPy's, in the byte order of the machine
    and finite. What its annotation does not allow is refused by name. Arguments that are annotated `Any`, or by names
    that only a type checker knows, pass.

    Parameters
    ----------
    function : a function, or a class
    but : names of parameters that have a fuller check of their own

    Raises
    ------
    TypeError, ValueError
        When the function is called, for an argument of another kind, or with numbers that are none.

    Examples
    --------
    >>> @checked
    ... def share(values: np.ndarray, n_modes: int | None = None) -> float:
    ...     return float(values[:n_modes].sum() / values.sum())
    >>> share([3, 1], 1)
    0.75
    >>> share([3, 1], 1.5)
    Traceback (most recent call last):
    ValueError: n_modes must be an integer; got 1.5.
    """
    if function is None:
        return functools.partial(checked, but=but)
    if inspect.isclass(function):
        return _checked_class(function, but)
    signature = inspect.signature(function)
    if not any(p.annotation not in _OPEN for p in signature.parameters.values()):
        return function  # and no frame is put between a warning and who it is for
    by_name = _binding(signature)

    @functools.cache
    def checks() -> dict[str, _Check]:
        # late: names may be imported below the function; and once, for annotations are slow to read
        hints = typing.get_type_hints(
            function, localns=_Names(inspect.unwrap(function).__globals__), include_extras=True
        )
        return {name: _check_of(hint) for name, hint in hints.items() if name not in ("return", *but)}

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        _check_names(named, signature.parameters)
        given = by_name(arguments, named)
        for name, check in checks().items():
            if name in given:
                given[name] = check(name, given[name])
        return function(**given)

    return call


def _binding(signature: inspect.Signature) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """(arguments, named) -> all of them by name; much faster than `bind`, which still says what is wrong."""
    parameters = signature.parameters
    in_order = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values()):
        raise TypeError(f"checked takes functions whose arguments can all be named; got {signature}.")
    required = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]

    def by_name(arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        given = dict(zip(in_order, arguments, strict=False)) | named
        is_odd = len(given) < len(arguments) + len(named) or not parameters.keys() >= named.keys()
        if is_odd or any(name not in given for name in required):
            signature.bind(*arguments, **named)
        return given

    return by_name


def _checked_class(cls: Any, but: Collection[str]) -> Any:
    if "__init__" in vars(cls):
        cls.__init__ = checked(cls.__init__, but=but)
    return checked_methods(cls, but)


def checked_methods(cls: type, but: Collection[str] = ()) -> Any:
    """Make all public methods that a class defines hold their arguments to their annotations.

    Examples
    --------
    >>> @checked_methods
    ... class Counter:
    ...     def add(self, n: int) -> int:
    ...         return n + 1
    >>> Counter().add("one")
    Traceback (most recent call last):
    ValueError: n must be an integer; got 'one'.
    """
    for name, value in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, types.FunctionType):
            setattr(cls, name, checked(value, but=but))
        elif isinstance(value, classmethod):
            setattr(cls, name, classmethod(checked(value.__func__, but=but)))
    return cls


# What deeptime, kooplearn and scikit-learn call arguments -> what they are called here.
_ELSEWHERE = {
    "lagtime": "lag",
    "lagtimes": "lags",
    "dim": "n_modes",
    "rank": "n_modes",
    "n_components": "n_modes",
    "n_metastable_sets": "n_states",
    "epochs": "n_epochs",
    "max_epochs": "n_epochs",
    "random_state": "seed",
}


_Function = TypeVar("_Function", bound=Callable[..., Any])


def answers_to_other_names(function: _Function) -> _Function:
    """Make what is not `checked` say what an argument that other packages know is called here.

    Examples
    --------
    >>> @answers_to_other_names
    ... def fit(data: list, lag: int = 1) -> None: ...
    >>> fit([], lagtime=2)
    Traceback (most recent call last):
    TypeError: lagtime is called lag here: give lag=2.
    """
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        _check_names(named, parameters)
        return function(*arguments, **named)

    return cast("_Function", call)


def _check_names(named: Mapping[str, Any], parameters: Collection[str]) -> None:
    for name in named:
        ours = _ELSEWHERE.get(name)
        if name not in parameters and ours in parameters:
            raise TypeError(f"{name} is called {ours} here: give {ours}={shown(named[name])}.")


# Annotations that ask for nothing.
_OPEN = (inspect.Parameter.empty, "Any", "None")


class _Names(dict):
    """The names of a module, and Any for those that only a type checker knows."""

    def __missing__(self, name: str) -> Any:
        if name.startswith("__"):  # what a debugger looks for
            raise KeyError(name)
        return getattr(builtins, name, Any)


def as_annotated(name: str, value: Any, hint: Any) -> Any:
    """The value as an annotation says, converted where nothing is lost by it.

    Examples
    --------
    >>> as_annotated("lags", range(1, 3), Sequence[int])
    [1, 2]
    """
    return _check_of(hint)(name, value)


def _check_of(hint: Any) -> _Check:
    """What holds a value to an annotation."""
    if hint in _CONVERSIONS:
        return _CONVERSIONS[hint]
    kind, options = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Annotated:  # with a check of its own
        return options[1]
    if kind in (typing.Union, types.UnionType):
        is_optional, others = type(None) in options, [_check_of(o) for o in options if o is not type(None)]
        return functools.partial(_one_of, checks=others, is_optional=is_optional)
    if kind in (collections.abc.Sequence, tuple, list):
        entries = [_check_of(o) for o in options if o is not ...] or [_CONVERSIONS[Any]]
        return functools.partial(_sequence, checks=entries, kind=kind)
    kind = kind or hint
    is_open = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    if not isinstance(kind, type) or is_open:
        return _CONVERSIONS[Any]
    return _function_of_states if kind is collections.abc.Callable else functools.partial(_instance, kind=kind)


def _function_of_states(name: str, value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function of states; got {shown(value)}.")
    return value


def _instance(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is collections.abc.Iterable and getattr(value, "ndim", 1) == 0):
        raise TypeError(f"{name} must be {_described(kind)}; got {shown(value)}.")
    return value


def _one_of(name: str, value: Any, checks: Sequence[_Check], is_optional: bool) -> Any:
    """The value as the first of several annotations that takes it; the error of the one that it comes closest to."""
    if value is None and is_optional:
        return None
    errors: list[Exception] = []
    for check in checks:
        try:
            return check(name, value)
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise errors[0] if np.isscalar(value) else errors[-1]


def _sequence(name: str, value: Any, checks: Sequence[_Check], kind: Any) -> Any:
    """A list, or a tuple where one is wanted, with every entry as annotated."""
    known: bool = isinstance(value, (list, tuple, range)) or (hasattr(value, "__array__") and np.ndim(value) > 0)
    if not known:
        raise TypeError(f"{name} must be a list or a tuple; got {shown(value)}.")
    wanted = list(checks) if len(checks) > 1 else list(checks) * len(value)
    if len(value) != len(wanted):
        raise ValueError(f"{name} must have {len(wanted)} entries; got {len(value)}.")
    if not isinstance(value, (list, tuple, range)):
        value = np.asarray(value)
    made: list[Any] = [check(f"{name}[{i}]", value[i]) for i, check in enumerate(wanted)]
    return tuple(made) if kind is tuple or isinstance(value, tuple) else made


_CONVERSIONS: dict[Any, _Check] = {
    Any: lambda _, value: value,
    int: whole,
    float: number,
    bool: flag,
    str: text,
    np.ndarray: finite_array,
    os.PathLike: path,
    str | os.PathLike: path,
    str | os.PathLike | None: lambda name, value: None if value is None else path(name, value),
}


def _described(kind: type) -> str:
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    return kind.__name__ if kind.__name__.endswith("s") else f"{article} {kind.__name__}"
