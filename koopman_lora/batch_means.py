"""Means over the pairs of a batch, weighted or not: the one place where a loss sums over pairs."""

from __future__ import annotations

from torch import Tensor

from koopman_lora.kinds import shown


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
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise TypeError(f"pair_weights must be a tensor of real numbers, one per pair; got {shown(weights)}.")
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


def effective_pairs(values: Tensor, weights: Tensor | None = None) -> int | Tensor:
    """Kish's effective number of pairs, `(sum w)^2 / sum w^2`: how many equal weights have as small a sum of squares.

    Examples
    --------
    >>> effective_pairs(torch.ones(3)), effective_pairs(torch.ones(3), torch.tensor([1.0, 1.0, 0.0]))
    (3, tensor(2.))
    """
    if weights is None:
        return values.shape[0]
    return weights.sum().square() / weights.square().sum()


def _shares(weights: Tensor, like: Tensor) -> Tensor:
    """Weights of sum 1, in the precision of other values."""
    return (weights / weights.sum()).to(like.dtype)
