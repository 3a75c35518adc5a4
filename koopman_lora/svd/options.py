"""What the options of `NeuralSVD` may be, alone and for a given matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from koopman_lora.encoders import check_hidden_dims, make_activation
from koopman_lora.kinds import number, whole
from koopman_lora.svd.factors import PARAMETRIZATIONS
from koopman_lora.svd.orthogonality import ORTHOGONALITIES
from koopman_lora.svd.phases import PHASES
from koopman_lora.svd.products import MatrixProducts

_WORDS = {"parametrization": PARAMETRIZATIONS, "orthogonality": ORTHOGONALITIES, "phase": PHASES}
_LEAST = {"n_modes": 1, "max_steps": 1, "oversampling": 0, "polish_steps": 0}
_MAY_BE_NONE = ("n_modes", "max_steps")
_POSITIVE = ("lam", "tolerance", "learning_rate")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options, as `NeuralSVD.get_params` gives them, that make no sense for any matrix.

    Examples
    --------
    >>> from koopman_lora.svd.neural_svd import NeuralSVD
    >>> check_options(NeuralSVD(energy=2.0).get_params())
    Traceback (most recent call last):
    ValueError: energy must be in (0, 1]; got 2.0.
    """
    for name, allowed in _WORDS.items():
        if not isinstance(options[name], (str, type(None))) or options[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {options[name]!r}.")
    _check_rank(options["n_modes"], options["energy"])
    for name, least in _LEAST.items():
        value = options[name]
        if value is None and name in _MAY_BE_NONE:
            continue
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}.")
    for name in _POSITIVE:
        if not number(name, options[name]) > 0:
            raise ValueError(f"{name} must be positive; got {options[name]}.")
    whole("seed", options["seed"])
    check_hidden_dims(options["hidden_dims"])
    make_activation(options["activation"])


def _check_rank(n_modes: int | None, energy: float | None) -> None:
    if n_modes is not None and energy is not None:
        raise ValueError(f"give n_modes or energy, not both; got n_modes={n_modes}, energy={energy}.")
    if energy is not None and not 0 < number("energy", energy) <= 1:
        raise ValueError(f"energy must be in (0, 1]; got {energy}.")


def check_options_for(H: MatrixProducts, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that make no sense for this matrix.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> from koopman_lora.svd.neural_svd import NeuralSVD
    >>> check_options_for(as_products(np.eye(3)), NeuralSVD(n_modes=4).get_params())
    Traceback (most recent call last):
    ValueError: n_modes must be at most min(M, N)=3 of H; got 4.
    """
    n_modes = options["n_modes"]
    if n_modes is not None and n_modes > min(H.shape):
        raise ValueError(f"n_modes must be at most min(M, N)={min(H.shape)} of H; got {n_modes}.")
    if options["phase"] == "reference" and options["reference"] is None:
        raise ValueError("phase='reference' needs reference, left vectors (M, n_modes) to align with; got None.")
    if options["reference"] is not None and options["phase"] == "reference":
        _check_reference(np.shape(options["reference"]), H.shape[0], n_modes or 1)
    if options["sample"] is not None:
        _check_sample(options["sample"], H)


def _check_reference(found: tuple[int, ...], n_rows: int, n_modes: int) -> None:
    if len(found) != 2 or found[0] != n_rows or found[1] < n_modes:
        raise ValueError(f"reference must have shape (M={n_rows}, at least n_modes={n_modes}); got {found}.")


def _check_sample(sample: tuple[int, int], H: MatrixProducts) -> None:
    if not H.has_entries:
        raise ValueError("sample needs entries of H; a LinearOperator has products only. Leave sample out.")
    sizes = tuple(whole("sample", size) for size in sample) if isinstance(sample, (tuple, list)) else ()
    if len(sizes) != 2 or any(not 1 <= size <= n for size, n in zip(sizes, H.shape, strict=True)):
        raise ValueError(f"sample must be (rows, columns) within the shape {H.shape} of H; got {sample}.")


def largest_rank(
    shape: tuple[int, int], options: Mapping[str, Any], features: tuple[Tensor | None, Tensor | None]
) -> int:
    """The most triples that a matrix of this shape has and the last hidden layers over features can carry.

    Raises
    ------
    ValueError
        If that is less than the options ask for.

    Examples
    --------
    >>> from koopman_lora.svd.neural_svd import NeuralSVD
    >>> largest_rank((9, 7), NeuralSVD(hidden_dims=(4,), n_modes=5).get_params(), (torch.ones(9, 2), None))
    5
    """
    hidden_dims, n_modes = tuple(options["hidden_dims"]), options["n_modes"]
    widths = [hidden_dims[-1] if hidden_dims else side.shape[1] for side in features if side is not None]
    limit = min(*shape, *(width + 1 for width in widths))
    if n_modes is None and options["energy"] is None:
        n_modes = min(shape)
    if n_modes is not None and n_modes > limit:
        raise ValueError(
            f"n_modes={n_modes} is more than the last hidden layer can carry ({limit - 1} units and the constant); "
            "give a wider last entry of hidden_dims, or a smaller n_modes."
        )
    return limit


def check_same_kind(H: MatrixProducts, shape: tuple[int, int], is_complex: bool) -> None:
    """Raise a ValueError unless a matrix to follow has the shape and the kind of the one before.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> check_same_kind(as_products(np.eye(3)), (3, 3), is_complex=False)
    """
    if H.shape != shape or H.torch_dtype.is_complex != is_complex:
        kind = "complex" if is_complex else "real"
        raise ValueError(
            f"H must be {kind} of shape {shape}, as in the fit before; got {H.dtype} of shape {H.shape}. "
            "Use fit for a matrix of another kind."
        )
