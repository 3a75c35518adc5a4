"""Several fits from different seeds: which is the best, which failed, and on what they agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import FIT, MODE, MODE_COLUMN, labelled, provenance
from koopman_lora.fitted import Fitted
from koopman_lora.losses import NonFiniteLossError
from koopman_lora.spectrum import evaluate_functions, model_spectrum
from koopman_lora.training_loop import TrainingResult
from koopman_lora.training_reports import INTERRUPTED

# States at which functions of different fits are compared.
MOST_STATES = 5000


def best_of(fit: Callable[[int], tuple[Fitted, TrainingResult]], seeds: Iterable[int]) -> tuple[Fitted, TrainingResult]:
    """The fit, of one for each seed, whose functions capture most of the held-out pairs, with what all agree on.

    Fits that come to nothing are named; where all do, the error of the first is raised. One that was interrupted is the
    last. Held-out pairs that chose are no longer quite held out: the more fits, the more their scores flatter.
    """
    done: dict[int, tuple[Fitted, TrainingResult]] = {}
    failed: dict[int, Exception] = {}
    for seed in seeds:
        try:
            done[seed] = fit(seed)
        except (NonFiniteLossError, np.linalg.LinAlgError) as error:
            failed[seed] = error
        else:
            if done[seed][1].stop_reason == INTERRUPTED:  # whoever stops one wants no other
                break
    if not done:
        raise next(iter(failed.values()))
    if len(done) + len(failed) == 1:
        return next(iter(done.values()))
    functions = [_functions(fitted) for fitted, _ in done.values()]
    reasons = {seed: str(error) for seed, error in failed.items()}
    fits = compare_fits(functions, [_vamp_2(fitted) for fitted, _ in done.values()], list(done), reasons)
    best, training = list(done.values())[fits.attrs["best"]]
    told = tuple(t.finding for _, t in done.values() if t.finding is not None and t.finding not in best.findings)
    return dataclasses.replace(best, fits=fits, findings=told + best.findings), training


def _functions(fitted: Fitted) -> np.ndarray:
    """Left singular functions (n_states, n_modes) at states spread evenly over those of the fit, times root weights."""
    if fitted.split is None:
        raise AssertionError("a fit has its split")
    pairs = fitted.split.pairs
    rows = np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_STATES)).astype(int)
    with torch.no_grad():
        features = fitted.model.f(pairs.read_x(rows))
    spectrum = model_spectrum(fitted.model, fitted.moments.everywhere)
    values = evaluate_functions(features, spectrum["phi_coefficients"])
    return values if pairs.weights is None else values * np.sqrt(pairs.weights[rows])[:, None]


def _vamp_2(fitted: Fitted) -> float:
    """Of the held-out pairs; of all where none were held out."""
    if fitted.validation is not None:
        return fitted.validation.scores().vamp_2
    sigma = model_spectrum(fitted.model, fitted.moments.everywhere)["canonical_singular_values"].values
    return float(np.sum(sigma**2))


def compare_fits(
    functions: Sequence[np.ndarray], scores: Sequence[float], seeds: Sequence[int], failed: Mapping[int, str]
) -> xr.Dataset:
    """How functions of several fits lie to those of the best one.

    Parameters
    ----------
    functions : left singular functions (n_states, n_modes) of each fit at the same states
    scores : held-out VAMP-2 of each
    seeds : of each
    failed : seeds of fits that came to nothing, with the reason

    Returns
    -------
    Dataset
        `overlap` (fit, mode, mode_column): squared cosines between functions of the best fit (mode) and of each
        (mode_column); `held_out_vamp_2`, `seed`; attributes `best`, the number of the best fit, and `failed`.

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> fits = compare_fits([x, x[:, ::-1]], [1.5, 1.2], [0, 1], {2: "loss is not finite"})
    >>> fits.best, fits.overlap[1].values.round(6)
    (0, array([[0., 1.], [1., 0.]]))
    """
    best = int(np.argmax(scores))
    unit = [values / np.maximum(np.linalg.norm(values, axis=0), np.finfo(float).tiny) for values in functions]
    overlap = [np.abs(np.conj(unit[best].T) @ values) ** 2 for values in unit]
    variables = {
        "overlap": ((FIT, MODE, MODE_COLUMN), np.stack(overlap)),
        "held_out_vamp_2": (FIT, np.array(scores, dtype=float)),
        "seed": (FIT, np.array(seeds, dtype=int)),
    }
    told = [f"seed {seed}: {reason}" for seed, reason in failed.items()]
    return labelled(variables, provenance(best=best, n_fits=len(seeds), failed="; ".join(told)))


def agreement_with_best(fits: xr.Dataset, cluster: np.ndarray) -> np.ndarray:
    """Mean squared cosine between the best fit and the others, of the subspace that each mode belongs to, (n_modes,).

    Parameters
    ----------
    fits : of `compare_fits`
    cluster : numbers (n_modes,) of neighbours whose sigma are not told apart

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> fits = compare_fits([x, x[:, ::-1]], [1.5, 1.2], [0, 1], {})
    >>> [agreement_with_best(fits, np.array(cluster)).round(6) for cluster in ([1, 2], [1, 1])]
    [array([0., 0.]), array([1., 1.])]
    """
    together = cluster[:, None] == cluster
    shared = np.sum(fits["overlap"].values, axis=-1, where=together)  # (fit, mode)
    others = np.delete(shared, fits.attrs["best"], axis=0).mean(axis=0)
    return np.array([others[cluster == number].mean() for number in cluster]).clip(max=1.0)
