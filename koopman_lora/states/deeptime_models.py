"""The macroscopic model handed over to deeptime."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.clock import CLOCK_ATTRS, Clock
from koopman_lora.kinds import Reals, check_shape


@checked
def to_deeptime(model: xr.Dataset, memberships: Reals | None = None, weights: Reals | None = None) -> Any:
    """Hand the macroscopic model over to deeptime's Markov-model tools.

    Parameters
    ----------
    model : Dataset of `macroscopic_model`
    memberships : array (n_microstates, n_states), optional
        Of microstates, such as cluster centres or frames.
    weights : array (n_microstates,), optional
        Stationary probabilities of the microstates, equal by default.

    Returns
    -------
    deeptime.markov.msm.MarkovStateModel with its TransitionCountModel of (soft) counts; with memberships a
    deeptime.markov.PCCAModel

    Raises
    ------
    ImportError
        Without deeptime; it comes with the extra `deeptime`.
    ValueError
        For memberships in another number of states, or a model whose states cannot reach one another.

    Examples
    --------
    >>> path = np.repeat(np.random.default_rng(0).integers(0, 2, 200), 5)
    >>> one_hot = lambda x: torch.cat([x < 0.5, x > 0.5], dim=1).double()
    >>> moments = estimate_moments(one_hot, one_hot, lagged_pairs(path.astype(float)))
    >>> to_deeptime(kl.macroscopic_model(moments, bootstrap=None)).n_states
    2
    """
    try:
        from deeptime.markov import PCCAModel, TransitionCountModel
        from deeptime.markov.msm import MarkovStateModel
    except ImportError as error:
        raise ImportError(
            "to_deeptime needs deeptime; install it with pip install 'koopman-lora[deeptime]'."
        ) from error
    check_result(
        "model", model, "macroscopic_model", "transition_matrix", "stationary_distribution", "counts", attrs=CLOCK_ATTRS
    )
    P, pi = model["transition_matrix"].values, model["stationary_distribution"].values
    if not np.isfinite(pi).all():
        raise ValueError(
            "model has no one stationary distribution, which deeptime needs: no state can be reached from all others. "
            "Hand over a model of states between which transitions were seen."
        )
    lag = Clock.from_attrs(model.attrs).known_lag("for deeptime's models")
    if memberships is None:
        counts = TransitionCountModel(model["counts"].values, counting_mode="effective", lagtime=lag)
        return MarkovStateModel(P, stationary_distribution=pi, count_model=counts, lagtime=lag)
    chi = np.asarray(memberships, dtype=float)
    if chi.ndim != 2 or len(chi) == 0 or chi.shape[1] != len(P):
        raise ValueError(f"memberships must have shape (n_microstates, {len(P)}); got {chi.shape}.")
    weights = np.full(len(chi), 1 / len(chi)) if weights is None else np.asarray(weights, dtype=float)
    check_shape("weights", weights, (len(chi),))
    joint = chi * weights[:, None]
    if not (joint.sum(axis=0) > 0).all():
        raise ValueError("memberships, times weights, must be positive somewhere in every state.")
    return PCCAModel(P, pi, chi, (joint / joint.sum(axis=0)).T)
