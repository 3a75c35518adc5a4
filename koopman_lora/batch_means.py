"""Means over the pairs of a batch, weighted or not, of all processes: the one place where a loss sums over pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from koopman_lora.kinds import shown
from koopman_lora.processes import mean_of_all


def check_pair_weights(weights: Tensor | None, like: Tensor) -> None:
    """Raise an error unless `weights` is None or a tensor of one real number for each pair of `like`.

    Examples
    --------
    >>> check_pair_weights(torch.ones(2), torch.ones(3, 1))
    Traceback (most recent call last):
    ValueError: pair_weights must have shape (3,), one per pair; got (2,).
    """
    if weights is None:
        return
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.layout != torch.strided:
        raise TypeError(f"pair_weights must be a dense tensor of real numbers, one per pair; got {shown(weights)}.")
    if weights.device != like.device:
        raise TypeError(f"pair_weights must be on {like.device}, as f is; got {weights.device}.")
    if weights.shape != like.shape[:1]:
        raise ValueError(f"pair_weights must have shape ({len(like)},), one per pair; got {tuple(weights.shape)}.")


def batch_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the pairs, the first axis, of values (n_pairs,) or (n_pairs, n).

    Examples
    --------
    >>> batch_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    tensor(2.)
    """
    if weights is None:
        return values.mean(0)
    return _shares(weights, values) @ values


def gram(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of a(x)^H b(x) over the pairs, (n_modes, n_modes)."""
    if weights is None:
        return a.mH @ b / a.shape[0]
    return (a * _shares(weights, a)[:, None]).mH @ b


def grams(sides: Sequence[tuple[Tensor, Tensor]], weights: Tensor | None = None) -> list[Tensor]:
    """`gram` of several (a, b) over the pairs of all processes.

    Examples
    --------
    >>> grams([(torch.ones(4, 1), torch.full((4, 1), 2.0))])
    [tensor([[2.]])]
    """
    own = [gram(a, b, weights) for a, b in sides]
    return mean_of_all(own, [_total(sides[0][0], weights)] * len(own))[0]


def over_all_pairs(
    means: Sequence[Tensor], same_pair: Tensor, weights: Tensor | None = None
) -> tuple[list[Tensor], Tensor, int | Tensor]:
    """Means over the pairs of all processes, the mean of what pairs add by themselves, and the number of pairs.

    Parameters
    ----------
    means : over the pairs of this process
    same_pair : of each pair of this process, (n_pairs,); its mean has the squares of the weights

    Returns
    -------
    means, mean of `same_pair`, and Kish's effective number of pairs `(sum w)^2 / sum w^2`: how many equal weights have
    as small a sum of squares

    Examples
    --------
    >>> over_all_pairs([torch.tensor(2.0)], torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]))
    ([tensor(2.)], tensor(1.), tensor(1.))
    """
    squared = None if weights is None else weights.square()
    first, second = _total(same_pair, weights), _total(same_pair, squared)
    averages, totals = mean_of_all([*means, batch_mean(same_pair, squared)], [*[first] * len(means), second])
    return averages[:-1], averages[-1], totals[-1] if weights is None else totals[0].square() / totals[-1]


def _total(like: Tensor, weights: Tensor | None) -> Tensor | int:
    return len(like) if weights is None else weights.sum()


def _shares(weights: Tensor, like: Tensor) -> Tensor:
    """Weights of sum 1, in the precision of other values."""
    # of several processes, one may have a part of the batch that counts nothing
    return (weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)).to(like.dtype)
