"""Held-out scores of an estimator over folds that share no frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, clone

from koopman_lora._labels import FOLD, labelled, provenance
from koopman_lora.checks import checked
from koopman_lora.data.groups import split_groups, without_overlap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.kinds import Seed
from koopman_lora.scores import vamp_scores


@checked
def cross_validate(estimator: BaseEstimator, X: Any, n_folds: int = 5, by: str = "auto", seed: Seed = 0) -> xr.Dataset:
    """Held-out VAMP-1, VAMP-2 and VAMP-E of an estimator over folds that share no frame.

    Parameters
    ----------
    estimator : KoopmanLoRA
        Not fitted here; a clone is, once per fold.
    X : trajectories, in any form that `lagged_pairs` takes
    n_folds : at least 2
    by : 'trajectory', 'blocks' or 'auto', see `split_pairs`

    Returns
    -------
    Dataset
        `vamp_1`, `vamp_2`, `vamp_e` per fold; attributes hold means and standard errors. The constant mode counts.

    Raises
    ------
    ValueError
        For fewer than 2 folds, or fewer groups than folds.

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=4, n_steps=300, seed=0)
    >>> scores = kl.cross_validate(kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2), data, n_folds=2)
    >>> scores.vamp_2.dims, scores.attrs["vamp_2_mean"] > 2
    (('fold',), True)
    """
    pairs = lagged_pairs(X, estimator.lag, estimator.dt, estimator.time_unit)
    if n_folds > len(pairs):
        raise ValueError(f"n_folds must be at most the number of pairs, {len(pairs)}; got {n_folds}.")
    group = split_groups(pairs, by, n_blocks=4 * max(n_folds, 1))
    n_groups = int(group.max()) + 1
    if not 2 <= n_folds <= n_groups:
        raise ValueError(f"n_folds must lie between 2 and the {n_groups} groups of data; got {n_folds}.")
    fold_of_group = np.random.default_rng(seed).permutation(n_groups) % n_folds
    rows = []
    for fold in range(n_folds):
        held = fold_of_group[group] == fold
        train = pairs.select(without_overlap(pairs, held))
        fitted = clone(estimator).fit(train)
        rows.append(vamp_scores(fitted.moments_, fitted.estimate_moments(pairs.select(held))))
    table = np.array(rows)  # (fold, score)
    names = ("vamp_1", "vamp_2", "vamp_e")
    summary = {f"{n}_mean": float(v) for n, v in zip(names, table.mean(0), strict=True)}
    errors = table.std(0, ddof=1) / np.sqrt(n_folds)
    summary |= {f"{n}_standard_error": float(v) for n, v in zip(names, errors, strict=True)}
    attrs = provenance(counts_constant_mode=True, n_folds=n_folds, by=by, seed=seed, **summary)
    return labelled({n: (FOLD, table[:, i]) for i, n in enumerate(names)}, attrs)
