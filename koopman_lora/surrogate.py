"""Sparse linear stand-ins of functions of the state: which few coordinates say most of a mode, and how much."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import INPUT, MODE, labelled, provenance
from koopman_lora.checks import checked
from koopman_lora.data.weights import checked_weights
from koopman_lora.kinds import Moderate, Reals, check_matrices, moderate_array, real_array
from koopman_lora.moments import FeatureMap

# Penalties relative to the smallest that chooses nothing.
_PENALTIES = np.geomspace(1.0, 1e-3, 25)
# Up to so many inputs for each row their products are summed once for all functions, and before any path.
_INPUTS_PER_ROW = 4
# Blocks of time for each fold, taken in turn, so that every fold sees all of a trajectory.
_BLOCKS_PER_FOLD = 4
# A share of the variance that is not worth another coordinate.
_WORTH = 0.01
# A column varies if its deviation is more than round-off in single precision of its size.
_VARIES = 1e-6


@checked
def sparse_surrogate(
    values: Moderate,
    x: Reals,
    names: Sequence[str] | None = None,
    n_folds: int = 5,
    weights: Reals | None = None,
) -> xr.Dataset:
    """Each function as a linear one of few coordinates, by LASSO, with its R^2 on held-out stretches of time.

    The penalty is the largest whose held-out R^2 is within a standard error, or .01, of the best. A small R^2 says that
    the mode is not linear in these coordinates: give products, distances or sines of them as `x`, or ask
    `input_importance`, which needs no such form.

    Parameters
    ----------
    values : real functions at states in the order of time, such as singular functions, (n, n_modes)
    x : the states, or any features of them, (n, n_inputs)
    names : of the inputs
    n_folds : at least 2; each is held out in turn, in contiguous blocks of rows
    weights : how much each state counts (n,), such as `pairs.weights`

    Returns
    -------
    Dataset
        `coefficients` (input, mode) per standard deviation of the input, of functions of unit deviation; `r2` (mode) of
        held-out rows, below 0 if it is worse than their mean; `n_chosen` (mode). All 0 for the constant mode.

    Raises
    ------
    ValueError
        For complex functions, arrays that do not fit to each other, or fewer rows than four blocks for each fold.

    References
    ----------
    Tibshirani, *Regression shrinkage and selection via the lasso* (1996); scikit-learn's `lasso_path`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> found = sparse_surrogate(2 * x[:, :1] - x[:, 2:], x, names=["a", "b", "c"])
    >>> found.n_chosen.values, found.r2.values.round(2), found.input[found.coefficients[:, 0] != 0].values
    (array([2]), array([0.99]), array(['a', 'c'], dtype='<U1'))
    """
    if np.iscomplexobj(values):
        raise ValueError("values must be real; give values.real and values.imag side by side, or np.abs(values).")
    check_matrices("values", values, is_one=True)
    check_matrices("x", x, len(values), is_one=True)
    if names is not None and len(names) != x.shape[1]:
        raise ValueError(f"names must name {x.shape[1]} inputs; got {len(names)}.")
    fold = _folds(len(x), n_folds)
    weights = None if weights is None else checked_weights(weights, len(x))
    inputs, targets = _standardised("x", x, weights), _standardised("values", values, weights)
    root = _roots(weights)
    largest = np.abs((root * inputs).T @ (root * targets)).max(axis=0, initial=0.0) / len(
        x
    )  # penalty from which nothing is chosen
    squares = np.stack([_errors(inputs, targets, fold == i, largest, weights) for i in range(n_folds)])
    # relative to those of the mean, (fold, mode, penalty)
    error = n_folds * squares[..., 1:] / np.maximum(squares[..., :1].sum(axis=0), np.finfo(float).tiny)
    taken = [_sparsest(of_mode) for of_mode in np.moveaxis(error, 1, 0)]
    paths = _paths(root * inputs, root * targets, largest)
    coefficients = 0.0 + np.stack([path[:, i] for path, i in zip(paths, taken, strict=True)], axis=1)
    r2 = [1 - error[:, mode, i].mean() if largest[mode] > 0 else 0.0 for mode, i in enumerate(taken)]
    variables = {
        "coefficients": ((INPUT, MODE), coefficients),
        "r2": (MODE, np.array(r2)),
        "n_chosen": (MODE, np.count_nonzero(coefficients, axis=0)),
    }
    return labelled(variables, provenance(n_folds=n_folds, n_rows=len(x)), {INPUT: list(names or range(x.shape[1]))})


def real_features(name: str, features: FeatureMap, x: Any) -> np.ndarray:
    """Real features of states, (n, n_features), or an error that names the map.

    Examples
    --------
    >>> real_features("features", lambda x: x[:, 0], np.zeros((2, 3)))
    Traceback (most recent call last):
    ValueError: values of features must have shape (2, n); got (2,).
    """
    values = real_array(f"values of {name}", moderate_array(f"values of {name}", features(x)))
    check_matrices(f"values of {name}", values, len(x), is_one=True)
    _check_columns(f"values of {name}", values)
    return values


def _folds(n_rows: int, n_folds: int) -> np.ndarray:
    """Fold (n_rows,) of every row: contiguous blocks, dealt out in turn.

    Examples
    --------
    >>> _folds(16, 2)
    array([0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1])
    """
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2; got {n_folds}.")
    n_blocks = n_folds * _BLOCKS_PER_FOLD
    if n_rows < 2 * n_blocks:
        raise ValueError(f"values and x must have at least {2 * n_blocks} rows for n_folds={n_folds}; got {n_rows}.")
    return np.arange(n_rows) * n_blocks // n_rows % n_folds


def _roots(weights: np.ndarray | None) -> Any:
    """Square roots of weights of mean 1 as a column, by which rows of a least-squares problem are multiplied."""
    return 1.0 if weights is None else np.sqrt(weights / weights.mean())[:, None]


def _check_columns(name: str, values: np.ndarray) -> None:
    if values.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column; got {values.shape}.")


def _standardised(name: str, columns: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Columns (n, k) of mean 0 and deviation 1; those that do not vary are 0."""
    columns = moderate_array(name, columns).astype(float)
    _check_columns(name, columns)
    size = np.abs(columns).max(axis=0, initial=0.0)
    columns = columns / np.where(size > 0, size, 1.0)
    centred = columns - np.average(columns, axis=0, weights=weights)
    deviation = np.sqrt(np.average(np.square(centred), axis=0, weights=weights))
    varies = deviation > _VARIES
    return np.where(varies, centred / np.where(varies, deviation, 1.0), 0.0)


def _paths(x: np.ndarray, y: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Coefficients for every penalty, the largest first, (n_modes, n_inputs, n_penalties), of centred columns."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path  # takes long to import

    gram = x.T @ x if x.shape[1] <= _INPUTS_PER_ROW * len(x) else False
    paths = np.zeros((y.shape[1], x.shape[1], len(_PENALTIES)))
    with warnings.catch_warnings():
        # near the end of a path among like inputs; what it gives there is judged by held-out rows as it is
        warnings.simplefilter("ignore", ConvergenceWarning)
        for mode in np.flatnonzero(largest):
            paths[mode] = lasso_path(x, y[:, mode], alphas=largest[mode] * _PENALTIES, precompute=gram)[1]
    return paths


def _errors(
    x: np.ndarray, y: np.ndarray, held: np.ndarray, largest: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Squared errors at the held-out rows of paths fitted to the others, (n_modes, 1 + n_penalties); first of means."""
    others = None if weights is None else weights[~held]
    means = [np.average(values[~held], axis=0, weights=others) for values in (x, y)]
    root, root_held = _roots(others), 1.0 if weights is None else np.sqrt(weights[held])[:, None]
    paths = _paths(root * (x[~held] - means[0]), root * (y[~held] - means[1]), largest)
    off = root_held * (y[held] - means[1])
    left = off.T[..., None] - (root_held * (x[held] - means[0])) @ paths  # (mode, row, penalty)
    return np.concatenate([np.square(off).sum(axis=0)[:, None], np.square(left).sum(axis=1)], axis=1)


def _sparsest(error: np.ndarray) -> int:
    """Number of the largest penalty whose error (n_folds, n_penalties) is no worse than the best, to a standard error.

    Examples
    --------
    >>> _sparsest(np.array([[1.0, 0.3, 0.11, 0.1], [1.0, 0.2, 0.11, 0.11]]))
    2
    """
    worse = error - error[:, [error.mean(axis=0).argmin()]]
    allowed = np.maximum(worse.std(axis=0, ddof=1) / np.sqrt(len(error)), _WORTH)
    return int(np.argmax(worse.mean(axis=0) <= allowed))
