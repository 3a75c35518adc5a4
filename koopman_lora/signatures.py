"""Signatures read from source, so that the command line knows types and defaults before torch is imported."""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Iterator
from typing import Any, NamedTuple

_TYPES = {"int": int, "float": float, "str": str}


class Parameter(NamedTuple):
    """Type, None where it is neither a number nor a string, and default."""

    type: Any
    default: Any


def parameters_of(file: str, name: str) -> dict[str, Parameter]:
    """Those parameters of a function, a class or a dataclass whose default is written as a literal.

    Parameters
    ----------
    file : path within the package
    name : dotted for a method

    Examples
    --------
    >>> parameters_of("estimator.py", "KoopmanLoRA")["lag"]
    Parameter(type=<class 'int'>, default=None)
    >>> parameters_of("bootstrap.py", "Bootstrap")["level"].default
    0.95
    """
    node: Any = _parsed(file)
    for part in name.split("."):
        node = _definitions(node)[part]
    found = {}
    for parameter, annotation, default in _declared(node):
        try:
            value = ast.literal_eval(default)
        except ValueError:  # a name or a call: whoever wants to know it must import
            continue
        found[parameter] = Parameter(_TYPES.get(ast.unparse(annotation).removesuffix(" | None")), value)
    return found


@functools.cache
def _parsed(file: str) -> ast.Module:
    return ast.parse(pkgutil.get_data("koopman_lora", file) or b"")


def _definitions(node: Any) -> dict[str, Any]:
    return {child.name: child for child in node.body if isinstance(child, ast.ClassDef | ast.FunctionDef)}


def _declared(node: Any) -> Iterator[tuple[str, ast.expr, ast.expr]]:
    """(name, annotation, default) of a function, of a class's constructor or of the fields of a dataclass."""
    node = _definitions(node).get("__init__", node)
    if isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and field.value is not None:
                yield ast.unparse(field.target), field.annotation, field.value
        return
    arguments = node.args
    last = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    for parameter, default in zip([*last, *arguments.kwonlyargs], defaults, strict=True):
        if default is not None:
            yield parameter.arg, parameter.annotation, default
