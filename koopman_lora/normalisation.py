"""From moments of raw features to those of normalised ones, and to the singular values that suit them best."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from koopman_lora.batch_means import batch_mean
from koopman_lora.loss_terms import best_svals, lora_terms
from koopman_lora.moments import Moments
from koopman_lora.processes import all_rows, processes
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
    features = at_least_single(features)
    if processes().size > 1:
        return _normalise_over_all(features, centred, scaled, pair_weights)
    if pair_weights is None and centred and scaled and not features.is_complex():
        # the same as below in one fused kernel, a tenth of the step's time less
        return nn.functional.batch_norm(features, None, None, training=True, eps=_FLOOR)
    if centred:
        features = features - batch_mean(features, pair_weights)
    return features / (batch_mean(features.abs().square(), pair_weights) + _FLOOR).sqrt() if scaled else features


def normalise_sides(
    f: Tensor, g: Tensor, is_one_map: bool, centred: bool, scaled: bool, pair_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`normalise_batch` of f(x) and g(x'), by statistics of each or, of one map in equilibrium, of both together.

    Examples
    --------
    >>> f, g = normalise_sides(torch.zeros(2, 1), torch.ones(2, 1), is_one_map=True, centred=True, scaled=False)
    >>> f[:, 0], g[:, 0]
    (tensor([-0.5000, -0.5000]), tensor([0.5000, 0.5000]))
    """
    if is_one_map:
        pair_weights = None if pair_weights is None else pair_weights.repeat(2)
        both = normalise_batch(torch.cat([f, g]), centred, scaled, pair_weights)
        return both[: len(f)], both[len(f) :]
    if processes().size > 1:  # side by side, in one message
        both = normalise_batch(torch.cat([f, g], dim=1), centred, scaled, pair_weights)
        return both[:, : f.shape[1]], both[:, f.shape[1] :]
    f, g = (normalise_batch(side, centred, scaled, pair_weights) for side in (f, g))
    return f, g


def at_least_single(features: Tensor) -> Tensor:
    """Features in single precision where a network of mixed precision gave them in half, too short for moments.

    Examples
    --------
    >>> at_least_single(torch.ones(2, 1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def _normalise_over_all(features: Tensor, centred: bool, scaled: bool, weights: Tensor | None) -> Tensor:
    """`normalise_batch` of the batch of which this process has a part."""
    mean, variance, _ = mean_and_variance_of_all(features, weights)
    power = variance if centred else variance + mean.abs().square()
    features = features - mean if centred else features
    return features / (power + _FLOOR).sqrt() if scaled else features


def mean_and_variance_of_all(features: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (n_features,) over the rows of all processes, and their total weight, in one message.

    Variances of the parts and the spread of their means add without loss; sums of squares would lose what an offset
    swamps.

    Examples
    --------
    >>> mean_and_variance_of_all(torch.tensor([[1.0], [3.0]]))
    (tensor([2.]), tensor([1.]), tensor([2.]))
    """
    own = batch_mean(features, weights)
    variance = batch_mean((features - own).abs().square(), weights)
    count = torch.full_like(own, len(features)) if weights is None else weights.sum().to(own.dtype).expand_as(own)
    table = torch.stack([count, own, variance.to(own.dtype)])[None]
    rank, size, _ = processes()
    counts, means, variances = all_rows(table, size, slice(rank, rank + 1)).unbind(1)  # (process, feature)
    shares = counts / counts.sum(0)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).abs().square())).sum(0)
    return mean, variance.real, counts.sum(0).real


@contextlib.contextmanager
def global_batch_norm(model: nn.Module) -> Iterator[None]:
    """Batch normalisation layers of a model normalise by the batch of all processes, also on CPU."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    layers = layers if processes().size > 1 else []
    for layer in layers:
        layer.__dict__["forward"] = functools.partial(_batch_norm_of_all, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _batch_norm_of_all(layer: Any, x: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    mean, variance, n = mean_and_variance_of_all(x.movedim(1, -1).flatten(0, -2))
    if layer.track_running_stats:
        layer.num_batches_tracked += 1
        rate = 1.0 / layer.num_batches_tracked if layer.momentum is None else layer.momentum
        with torch.no_grad():
            layer.running_mean += rate * (mean - layer.running_mean)
            layer.running_var += rate * (variance * n / (n - 1) - layer.running_var)
    shape = (1, -1, *[1] * (x.ndim - 2))
    x = (x - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
    return x * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else x


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
