"""The nested low-rank approximation (LoRA) objective: its terms, pure functions of features, a thin Module.

Features are rows: `f` is f(x), `g` is g(x'), both of shape (n_pairs, n_modes), real or complex
(docs/mathematics.md, section 3).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora.arguments import check_tensors, whole
from koopman_lora.batch_means import batch_mean, check_pair_weights, gram, grams, over_all_pairs
from koopman_lora.checks import checked
from koopman_lora.kinds import flag, is_real, number_array, share, shown
from koopman_lora.loss_terms import LoRATerms

NESTINGS = ("jnt", "seq", None)


class NonFiniteLossError(FloatingPointError, ValueError):
    """The loss became NaN or infinite."""


def check_nesting(nesting: str | None) -> None:
    """Raise a ValueError unless `nesting` is 'jnt', 'seq' or None."""
    if not (nesting is None or isinstance(nesting, str)) or nesting not in NESTINGS:
        raise ValueError(f"nesting must be one of 'jnt', 'seq', None; got {nesting!r}.")


def nesting_weights(n_modes: int, weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """Weights `w_l` of the truncations l = 1..n_modes, uniform unless given, scaled to sum to 1.

    Raises
    ------
    ValueError
        If `weights` has another length than `n_modes`, a negative entry, or a last entry of zero
        (the full truncation has to count, otherwise the last modes are never trained).

    Examples
    --------
    >>> nesting_weights(4)
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    if weights is None:
        return torch.full((n_modes,), 1.0 / n_modes, dtype=torch.float64)
    w = torch.as_tensor(number_array("weights", weights)).real.double()
    if w.shape != (n_modes,) or not torch.isfinite(w).all() or (w < 0).any() or w[-1] <= 0:
        raise ValueError(
            f"weights must hold n_modes={n_modes} finite numbers, none negative, the last positive; got {weights!r}."
        )
    return w / w.sum()


def truncation_weights(weights: Tensor) -> Tensor:
    """`m_i = sum_{l >= i} w_l`, (n_modes,): how often mode i counts in joint nesting.

    Examples
    --------
    >>> truncation_weights(nesting_weights(4))
    tensor([1.0000, 0.7500, 0.5000, 0.2500], dtype=torch.float64)
    """
    return weights.flip(0).cumsum(0).flip(0)


def check_features(f: Tensor, g: Tensor) -> None:
    """Raise an error unless `f` and `g` are two (n_pairs, n_modes) batches of equal shape and at least 2 pairs.

    Raises
    ------
    TypeError
        For anything but tensors.
    ValueError
        For tensors of other shapes.
    """
    check_tensors(f=f, g=g)
    if f.ndim != 2 or f.shape != g.shape:
        raise ValueError(
            f"f and g must have one and the same shape (n_pairs, n_modes); got {tuple(f.shape)} and {tuple(g.shape)}."
        )
    if f.device != g.device:
        raise TypeError(f"f and g must be on one device; got {f.device} and {g.device}.")
    if f.dtype != g.dtype:
        raise TypeError(f"f and g must be of one precision; got {f.dtype} and {g.dtype}.")
    if f.shape[0] < 2:
        raise ValueError(
            f"f and g must hold at least 2 pairs; got {f.shape[0]}. Use a larger batch, and drop_last=True of the "
            "DataLoader where the last one may be small."
        )


def scale_by_svals(f: Tensor, g: Tensor, svals: Tensor | None) -> tuple[Tensor, Tensor]:
    """Multiply both features by sqrt(svals); unchanged when `svals` is None."""
    check_features(f, g)
    if svals is None:
        return f, g
    check_tensors(svals=svals)
    if svals.device != f.device:
        raise TypeError(f"svals must be on {f.device}, as f is; got {svals.device}.")
    if svals.shape != (f.shape[1],):
        raise ValueError(f"svals must have shape ({f.shape[1]},), one per mode; got {tuple(svals.shape)}.")
    root = svals.sqrt()
    return f * root, g * root


def real_dot(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> summed over the last axis."""
    if not a.is_complex():
        return (a * b).sum(-1)
    return (a.conj() * b).real.sum(-1)


def _square(a: Tensor) -> Tensor:
    """|a|^2 entry by entry."""
    return a.real.square() + a.imag.square() if a.is_complex() else a.square()


def lora_loss(
    f: Tensor,
    g: Tensor,
    svals: Tensor | None = None,
    nesting: str | None = "jnt",
    weights: Sequence[float] | Tensor | None = None,
    unbiased: bool = True,
    pair_weights: Tensor | None = None,
    joint_share: float = 0.0,
) -> Tensor:
    """Nested LoRA loss `-2 Re tr T_fg + tr(M_f M_g)`, nested over truncations; minimum `-sum sigma^2` (un-nested).

    Parameters
    ----------
    f, g : tensors of shape (n_pairs, n_modes)
        f(x) and g(x'), real or complex, *not* yet scaled by `svals`.
    svals : tensor of shape (n_modes,), optional
        Learned singular values; both features are scaled by their square roots.
    nesting : 'jnt', 'seq' or None
        Joint (weighted truncations), sequential (stop-gradients), or the subspace only.
    weights : n_modes numbers, optional
        Weights of the truncations for `'jnt'`, uniform by default.
    unbiased : bool
        Remove the terms in which both second moments see the same pair, so that the mean over mini-batches is the
        value for all pairs. The plain estimate is off by `(tr-term of single pairs - truth) / batch`.
    pair_weights : tensor of shape (n_pairs,), optional
        How much each pair counts, none negative; only their relative size matters.
    joint_share : number from 0 to below 1
        Share b of the law of the pairs themselves in what the quadratic part is a mean over. The minimum is then the
        relative density ratio `r / (1 - b + b r)`, at most 1 / b, instead of the ratio r of the pairs' law to that of
        independent x and x': a few pairs, or rare outliers, cannot be remembered as large values of it. Its singular
        functions span nearly the same, but its singular values are lower: for features that will be refined.

    Raises
    ------
    ValueError
        For an unknown nesting, shapes that do not match, fewer than two pairs, weights without 'jnt', a share beyond 1.
    TypeError
        For arrays instead of tensors.

    References
    ----------
    docs/mathematics.md, section 3.
    Ryu et al., Operator SVD with Neural Networks via Nested Low-Rank Approximation (2024).
    Yamada et al., Relative density-ratio estimation for robust distribution comparison (2013), for `joint_share`.

    Examples
    --------
    >>> f = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> lora_loss(f, f, nesting=None, unbiased=False)   # f(x) = g(x') exactly: -sum sigma^2 = -2
    tensor(-2.)
    """
    check_nesting(nesting)
    check_features(f, g)
    if weights is not None and nesting != "jnt":
        raise ValueError(f"weights belong to nesting='jnt'; got nesting={nesting!r}. Leave weights out.")
    check_pair_weights(pair_weights, f)
    joint_share = share("joint_share", joint_share)
    f, g = scale_by_svals(f, g, svals)
    h = f.conj() * g  # (batch, mode)
    M_f, M_g = (_second_moments(features, nesting, pair_weights) for features in (f, g))
    same_pair = _same_pair(h, nesting)
    if nesting == "jnt":
        key = None if weights is None else tuple(number_array("weights", weights).real.ravel().tolist())
        w, m, mask = _truncations(f.shape[1], key, f.real.dtype, f.device)
        same_pair = same_pair @ w
    # only the diagonal of T_fg counts: the mean of h, without a product of matrices
    means = [batch_mean(h.real, pair_weights), M_f, M_g, batch_mean(same_pair, pair_weights)]
    (linear, M_f, M_g, joint), same_pair, n_pairs = over_all_pairs(means, same_pair, pair_weights)
    terms = LoRATerms(linear, (M_f * M_g.mT).real)
    if nesting == "jnt":
        terms = LoRATerms(terms.linear * m, terms.quadratic * mask)
    loss, independent = terms.loss(), terms.quadratic.sum()
    if flag("unbiased", unbiased):
        # from V, the same-batch value of the quadratic part, to its average over pairs n != m
        excess = (independent - same_pair) / (n_pairs - 1)
        loss, independent = loss + excess, independent + excess
    return loss + joint_share * (joint - independent) if joint_share else loss


@functools.lru_cache(maxsize=32)
def _truncations(
    n_modes: int, weights: tuple[float, ...] | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """`w_l`, `m_i = sum_{l >= i} w_l` and the mask `min(m_i, m_j)`; the same in every step of a training run."""
    w = nesting_weights(n_modes, weights).to(dtype=dtype, device=device)
    m = truncation_weights(w)
    return w, m, torch.minimum(m[:, None], m)


def _same_pair(h: Tensor, nesting: str | None) -> Tensor:
    """What each pair adds to the quadratic part by itself, (batch,); of joint nesting per truncation (batch, mode)."""
    if nesting == "jnt":
        return _square(h.cumsum(1))
    if nesting is None:
        return _square(h.sum(1))
    before = h.detach().cumsum(1) - h.detach()  # (batch, mode): sum over earlier modes
    return _square(h).sum(1) + 2.0 * real_dot(before, h)


def _second_moments(features: Tensor, nesting: str | None, pair_weights: Tensor | None) -> Tensor:
    return _later_only(features, pair_weights) if nesting == "seq" else gram(features, features, pair_weights)


def _later_only(features: Tensor, pair_weights: Tensor | None) -> Tensor:
    """Second moments whose entry (i, j), i != j, sends its gradient to the later of the two modes only."""
    # rows are the earlier mode, without gradient
    upper = gram(features.detach(), features, pair_weights).triu(1)
    return upper + upper.mH + torch.diag(batch_mean(_square(features), pair_weights))


def orthonormality_penalty(
    f: Tensor, g: Tensor, has_constant: bool = False, pair_weights: Tensor | None = None
) -> Tensor:
    """`||M_f - I||_F^2 + ||M_g - I||_F^2` on unscaled features.

    Parameters
    ----------
    has_constant : the first column is the constant mode; its second moments with the others are their means,
        which are then not penalised.
    pair_weights : see `lora_loss`

    Examples
    --------
    >>> orthonormality_penalty(torch.eye(2) * 2**0.5, torch.eye(2) * 2**0.5).item() < 1e-12
    True
    """
    check_features(f, g)
    check_pair_weights(pair_weights, f)
    total = f.new_zeros((), dtype=f.real.dtype)
    for M in grams([(f, f), (g, g)], pair_weights):
        deviation = M - torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
        if has_constant:
            deviation = deviation[1:, 1:]
        total = total + _square(deviation).sum()
    return total


class NestedLoRALoss(nn.Module):
    """`lora_loss` with its settings stored, plus the orthonormality penalty.

    Parameters
    ----------
    n_modes : number of modes, the constant one included
    nesting, weights, unbiased, joint_share : see `lora_loss`
    reg_weight : weight of `orthonormality_penalty`
    has_constant : the first feature is the constant mode (`has_centering=True` of the model)

    Raises
    ------
    ValueError
        For an unknown nesting, bad weights, n_modes < 1, reg_weight < 0; when called, for another number of modes.
    TypeError
        When called on arrays instead of tensors.

    Examples
    --------
    >>> loss = NestedLoRALoss(n_modes=2, nesting="seq")
    >>> loss(torch.ones(8, 2), torch.ones(8, 2))   # two copies of the constant function: -2*2 + 4
    tensor(0.)
    """

    @checked(but=("nesting", "reg_weight", "weights"))
    def __init__(
        self,
        n_modes: int,
        nesting: str | None = "jnt",
        reg_weight: float = 0.0,
        weights: Sequence[float] | None = None,
        unbiased: bool = True,
        has_constant: bool = False,
        joint_share: float = 0.0,
    ) -> None:
        super().__init__()
        check_nesting(nesting)
        n_modes = whole("n_modes", n_modes)
        if n_modes < 1:
            raise ValueError(f"n_modes must be at least 1; got {n_modes}.")
        if not is_real(reg_weight) or not reg_weight >= 0:
            raise ValueError(f"reg_weight must not be negative; got {reg_weight}.")
        if weights is not None:
            if nesting != "jnt":
                raise ValueError(f"weights belong to nesting='jnt'; got nesting={nesting!r}. Leave weights out.")
            nesting_weights(n_modes, weights)
        self.n_modes, self.nesting, self.reg_weight = n_modes, nesting, float(reg_weight)
        self.weights, self.unbiased, self.has_constant = weights, unbiased, has_constant
        self.joint_share = share("joint_share", joint_share)

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None, pair_weights: Tensor | None = None) -> Tensor:
        """Loss of a batch of unscaled features, each (batch, n_modes)."""
        check_tensors(f=f, g=g)
        if f.ndim != 2 or f.shape[1] != self.n_modes:
            raise ValueError(f"f must have shape (batch, n_modes={self.n_modes}); got {tuple(f.shape)}.")
        loss = lora_loss(f, g, svals, self.nesting, self.weights, self.unbiased, pair_weights, self.joint_share)
        if self.reg_weight > 0:
            loss = loss + self.reg_weight * orthonormality_penalty(f, g, self.has_constant, pair_weights)
        return loss


def check_loss(loss: Any) -> None:
    """Raise a TypeError for a function that cannot be called as loss(f, g, svals)."""
    try:
        signature = inspect.signature(loss)
    except ValueError:  # of a few built-in functions Python knows none
        return
    try:
        signature.bind("f", "g", "svals")
    except TypeError as error:
        raise TypeError(f"loss must be called as loss(f, g, svals), and give a scalar tensor; {error}.") from None


def scalar_loss(value: Any) -> Tensor:
    """What a loss gave, if it can be minimised; otherwise a TypeError.

    Examples
    --------
    >>> scalar_loss(3.0)
    Traceback (most recent call last):
    TypeError: loss must give a scalar tensor of real numbers with a gradient; got 3.0.
    """
    is_scalar = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
    if not is_scalar or not value.requires_grad:
        got = "one without a gradient: it does not depend on f, g or svals" if is_scalar else shown(value)
        raise TypeError(f"loss must give a scalar tensor of real numbers with a gradient; got {got}.")
    return value
