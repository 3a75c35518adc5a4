"""From moments of raw features to those of normalised ones, and to the singular values that suit them best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from koopman_lora.batch_means import batch_mean
from koopman_lora.loss_terms import best_svals, lora_terms
from koopman_lora.moments import Moments
from koopman_lora.triples import canonical_triples

# Added to second moments of a batch: far below any real scale, it keeps the gradient of a dead feature finite.
_FLOOR = 1e-14


class NormalisedFeatures(NamedTuple):
    """What normalising does to features f and g.

    Attributes
    ----------
    mean, scale : arrays (2, n_learned) of f and g, without the constant: a feature becomes (feature - mean) / scale
    maps : matrices (n_modes, n_modes) of f and g that do the same to rows of features, the constant among them
    moments : of the normalised features
    svals : singular values (n_modes,) at the minimum of the loss; None where they are not learned
    """

    mean: np.ndarray
    scale: np.ndarray
    maps: tuple[np.ndarray, np.ndarray]
    moments: Moments
    svals: np.ndarray | None

    def as_tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean, scale and svals for `KoopmanLoRAModel.set_normalisation`."""
        svals = None if self.svals is None else torch.from_numpy(self.svals)
        return torch.from_numpy(self.mean), torch.from_numpy(self.scale), svals


def normalise(raw: Moments, has_constant: bool, learn_svals: bool, is_refined: bool = False) -> NormalisedFeatures:
    """Mean zero beside a constant mode, unit second moment where singular values are learned.

    Parameters
    ----------
    raw : M_f, M_g, T_fg of the raw features, the constant first where there is one
    has_constant : the first feature is the constant function, whose products with the others are their means
    learn_svals : whether features get unit second moment, and svals
    is_refined : svals are the canonical singular values, which are the minimum of the loss for features that `refine`
        made orthonormal; otherwise they are looked for

    References
    ----------
    docs/mathematics.md, sections 3 and 5.

    Examples
    --------
    >>> M = np.array([[[1.0, 3.0], [3.0, 13.0]]])                             # a feature of mean 3, deviation 2
    >>> normal = normalise(Moments({"M_f": M, "M_g": M, "T_fg": M}, np.array([1])), True, True)
    >>> normal.mean.tolist(), normal.scale.tolist(), normal.svals.tolist()
    ([[3.0], [3.0]], [[2.0], [2.0]], [1.0, 1.0])
    """
    first, matrices = int(has_constant), (raw.M_f, raw.M_g)
    second = np.stack([np.real(np.diag(M))[first:] for M in matrices])
    mean = np.stack([M[0, first:] for M in matrices]) if has_constant else np.zeros_like(second)
    power = np.maximum(second - np.abs(mean) ** 2, np.finfo(np.float32).tiny)
    scale = np.sqrt(power) if learn_svals else np.ones_like(power)
    f, g = (_matrix(m, s, has_constant) for m, s in zip(mean, scale, strict=True))
    moments, svals = raw.transformed(f, g), None
    between = moments.M_f, moments.T_fg, moments.M_g
    if learn_svals and is_refined:
        svals = canonical_triples(moments).values
    elif learn_svals:
        svals = best_svals(lora_terms(*map(torch.from_numpy, between)), True, has_constant).numpy()
    return NormalisedFeatures(mean, scale, (f, g), moments, svals)


def _matrix(mean: np.ndarray, scale: np.ndarray, has_constant: bool) -> np.ndarray:
    if not has_constant:
        return np.diag(1.0 / scale)
    matrix = np.pad(np.diag(1.0 / scale), ((1, 0), (1, 0))).astype(np.result_type(mean, float))
    matrix[0] = np.r_[1.0, -mean / scale]
    return matrix


def normalise_batch(features: Tensor, centred: bool, scaled: bool, pair_weights: Tensor | None = None) -> Tensor:
    """Features (batch, n_learned) of mean zero where `centred`, of unit second moment where `scaled`, in this batch.

    Examples
    --------
    >>> normalise_batch(torch.tensor([[1.0], [3.0]]), centred=True, scaled=False)
    tensor([[-1.],
            [ 1.]])
    """
    if pair_weights is None and centred and scaled and not features.is_complex():
        # the same as below in one fused kernel, a tenth of the step's time less
        return nn.functional.batch_norm(features, None, None, training=True, eps=_FLOOR)
    if centred:
        features = features - batch_mean(features, pair_weights)
    return features / (batch_mean(features.abs().square(), pair_weights) + _FLOOR).sqrt() if scaled else features


def mean_and_power(batches: Iterable[tuple[Tensor, np.ndarray | None]]) -> tuple[Tensor, Tensor]:
    """Means and second moments (side, n_features) of batches, in float64.

    Parameters
    ----------
    batches : features (side, batch, n_features), and weights (batch,) or None for pairs that count alike

    Raises
    ------
    ValueError
        Without any, or with weights of 0 alone.

    Examples
    --------
    >>> mean_and_power([(torch.ones(2, 3, 1), None), (torch.zeros(2, 1, 1), None)])[0][:, 0]
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """
    count, first, second = 0.0, torch.zeros(()), torch.zeros(())
    for features, weights in batches:
        wide = features.to(torch.complex128 if features.is_complex() else torch.float64)
        power = wide.abs().square()
        if weights is not None:
            column = torch.from_numpy(weights).to(wide.device)[:, None]
            wide, power = wide * column, power * column
        count += features.shape[1] if weights is None else weights.sum()
        first, second = first + wide.sum(1), second + power.sum(1)
    if not count > 0:
        raise ValueError("batches of pairs to calibrate on are empty; give at least one pair (x, x_next) that counts.")
    return first / count, second / count


def prepend_constant(features: Tensor) -> Tensor:
    """The function 1 as a first feature: (batch, k) -> (batch, 1 + k)."""
    if features.ndim != 2:
        raise ValueError(f"features must have shape (batch, k); got {tuple(features.shape)}.")
    return torch.cat([features.new_ones(features.shape[0], 1), features], dim=1)
