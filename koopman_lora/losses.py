"""The nested low-rank approximation (LoRA) objective and its baselines: pure functions of features, thin Modules.

Features are rows: `f` is f(x), `g` is g(x'), both of shape (n_pairs, n_modes), real or complex (MATH.md, section 3).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

NESTINGS = ("jnt", "seq", None)


def check_nesting(nesting: str | None) -> None:
    """Raise a ValueError unless `nesting` is 'jnt', 'seq' or None."""
    if nesting not in NESTINGS:
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
    w = torch.as_tensor(weights, dtype=torch.float64)
    if w.shape != (n_modes,) or not torch.isfinite(w).all() or (w < 0).any() or w[-1] <= 0:
        raise ValueError(
            f"weights must hold n_modes={n_modes} finite numbers, none negative, the last positive; got {weights!r}."
        )
    return w / w.sum()


def check_features(f: Tensor, g: Tensor) -> None:
    """Raise a ValueError unless `f` and `g` are two (n_pairs, n_modes) batches of equal shape and at least 2 pairs."""
    if f.ndim != 2 or f.shape != g.shape:
        raise ValueError(
            f"f and g must have one and the same shape (n_pairs, n_modes); got {tuple(f.shape)} and {tuple(g.shape)}."
        )
    if f.shape[0] < 2:
        raise ValueError(f"f and g must hold at least 2 pairs; got {f.shape[0]}. Use a larger batch.")


def scale_by_svals(f: Tensor, g: Tensor, svals: Tensor | None) -> tuple[Tensor, Tensor]:
    """Multiply both features by sqrt(svals); unchanged when `svals` is None."""
    if svals is None:
        return f, g
    if svals.shape != (f.shape[1],):
        raise ValueError(f"svals must have shape ({f.shape[1]},), one per mode; got {tuple(svals.shape)}.")
    root = svals.sqrt()
    return f * root, g * root


def _real_dot(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> summed over the last axis."""
    if not a.is_complex():
        return (a * b).sum(-1)
    return (a.conj() * b).real.sum(-1)


def _square(a: Tensor) -> Tensor:
    """|a|^2 entry by entry."""
    return a.real.square() + a.imag.square() if a.is_complex() else a.square()


def _gram(a: Tensor, b: Tensor) -> Tensor:
    return a.mH @ b / a.shape[0]  # (mode, mode)


def lora_loss(
    f: Tensor,
    g: Tensor,
    svals: Tensor | None = None,
    nesting: str | None = "jnt",
    weights: Sequence[float] | Tensor | None = None,
    unbiased: bool = True,
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

    Raises
    ------
    ValueError
        For an unknown nesting, shapes that do not match, fewer than two pairs, weights without 'jnt'.

    References
    ----------
    MATH.md, section 3; Ryu et al., Operator SVD with Neural Networks via Nested Low-Rank Approximation (2024).

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
    f, g = scale_by_svals(f, g, svals)
    if nesting == "jnt":
        return _joint(f, g, weights, unbiased)
    if nesting == "seq":
        return _sequential(f, g, unbiased)
    return _plain(f, g, unbiased)


def _remove_same_pair_terms(value: Tensor, same_pair: Tensor, unbiased: bool) -> Tensor:
    """`(B^2 V - sum_n h_n P h_n^H) / (B (B - 1))`: from the same-batch value V to the average over n != m."""
    if not unbiased:
        return value
    batch = same_pair.shape[0]
    return (batch * value - same_pair.mean()) / (batch - 1)


@functools.lru_cache(maxsize=32)
def _joint_weights(
    n_modes: int, weights: tuple[float, ...] | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """`w_l`, `m_i = sum_{l >= i} w_l` and the mask `min(m_i, m_j)`; the same in every step of a training run."""
    w = nesting_weights(n_modes, weights).to(dtype=dtype, device=device)
    m = w.flip(0).cumsum(0).flip(0)
    return w, m, torch.minimum(m[:, None], m[None, :])


def _joint(f: Tensor, g: Tensor, weights: Sequence[float] | Tensor | None, unbiased: bool) -> Tensor:
    key = None if weights is None else tuple(float(w) for w in weights)
    w, m, mask = _joint_weights(f.shape[1], key, f.real.dtype, f.device)
    h = f.conj() * g  # (batch, mode)
    value = _real_dot(_gram(f, f) * mask, _gram(g, g)).sum()  # M_g^T = conj(M_g)
    linear = (h.real.mean(0) * m).sum()
    if unbiased:
        value = _remove_same_pair_terms(value, _square(h.cumsum(1)) @ w, unbiased)
    return value - 2.0 * linear


def _sequential(f: Tensor, g: Tensor, unbiased: bool) -> Tensor:
    h = f.conj() * g
    earlier_f, earlier_g = f.detach(), g.detach()
    # rows are the earlier mode without gradient, columns the later one
    cross = _real_dot(_gram(earlier_f, f).triu(1), _gram(earlier_g, g).triu(1)).sum()
    own = (_square(f).mean(0) * _square(g).mean(0)).sum()
    before = h.detach().cumsum(1) - h.detach()  # (batch, mode): sum over earlier modes
    same_pair = _square(h).sum(1) + 2.0 * _real_dot(before, h)
    return _remove_same_pair_terms(own + 2.0 * cross, same_pair, unbiased) - 2.0 * h.real.mean(0).sum()


def _plain(f: Tensor, g: Tensor, unbiased: bool) -> Tensor:
    h = f.conj() * g
    value = _real_dot(_gram(f, f), _gram(g, g)).sum()
    same_pair = _square(h.sum(1))
    return _remove_same_pair_terms(value, same_pair, unbiased) - 2.0 * h.real.mean(0).sum()


def orthonormality_penalty(f: Tensor, g: Tensor, has_constant: bool = False) -> Tensor:
    """`||M_f - I||_F^2 + ||M_g - I||_F^2` on unscaled features.

    Parameters
    ----------
    has_constant : the first column is the constant mode; its second moments with the others are their means,
        which are then not penalised.

    Examples
    --------
    >>> orthonormality_penalty(torch.eye(2) * 2**0.5, torch.eye(2) * 2**0.5).item() < 1e-12
    True
    """
    check_features(f, g)
    total = f.new_zeros((), dtype=f.real.dtype)
    for features in (f, g):
        deviation = _gram(features, features) - torch.eye(features.shape[1], dtype=f.dtype, device=f.device)
        if has_constant:
            deviation = deviation[1:, 1:]
        total = total + _square(deviation).sum()
    return total


def _inverse_root(M: Tensor, epsilon: float) -> Tensor:
    """`(M + epsilon mean(diag M) I)^{-1/2}`, differentiable."""
    ridge = epsilon * M.diagonal().real.mean()
    values, vectors = torch.linalg.eigh(M + ridge * torch.eye(M.shape[0], dtype=M.dtype, device=M.device))
    return (vectors * values.clamp_min(ridge.detach()).rsqrt().to(M.dtype)) @ vectors.mH


def vamp_loss(f: Tensor, g: Tensor, score: str = "2", epsilon: float = 1e-6) -> Tensor:
    """Negative VAMP score of a batch; unchanged by invertible linear maps of f or of g, so there is no use for svals.

    Parameters
    ----------
    score : '1' (sum of sigma), '2' (sum of sigma^2) or 'E' (the estimation score at the batch's own solution)
    epsilon : ridge of the whitening, relative to the mean second moment

    Raises
    ------
    ValueError
        For another score, or shapes that do not match.

    References
    ----------
    Wu and Noe, Variational approach for learning Markov processes from time series data (2020).

    Examples
    --------
    >>> f = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> round(vamp_loss(f, f, score="1").item(), 4)
    -2.0
    """
    check_features(f, g)
    if score not in ("1", "2", "E"):
        raise ValueError(f"score must be one of '1', '2', 'E'; got {score!r}.")
    M_f, M_g, T = _gram(f, f), _gram(g, g), _gram(f, g)
    W_f, W_g = _inverse_root(M_f, epsilon), _inverse_root(M_g, epsilon)
    whitened = W_f @ T @ W_g
    if score == "2":
        return -whitened.abs().square().sum()
    if score == "1":
        return -torch.linalg.svdvals(whitened).sum()
    K = W_f @ whitened @ W_g  # sum_i sigma_i u_i v_i^H: K_hat(x, x') = f(x) K g(x')^H
    return -(2.0 * _real_dot(K, T).sum() - _real_dot(M_f @ K @ M_g, K).sum())


def dpnet_loss(f: Tensor, g: Tensor, relaxed: bool = True, metric_weight: float = 1.0, epsilon: float = 1e-6) -> Tensor:
    """Deep-projection loss: projection score minus the metric distortion `tr(M^2 - M - ln M)` of both features.

    Parameters
    ----------
    relaxed : divide by the operator norms of M_f and M_g instead of whitening
    metric_weight : weight of the metric distortion
    epsilon : ridge relative to the mean second moment, for whitening and logarithm

    References
    ----------
    Kostic et al., Learning invariant representations of time-homogeneous stochastic dynamical systems (2024), eq. 9-11.

    Examples
    --------
    >>> f = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> round(dpnet_loss(f, f, relaxed=False).item(), 4)
    -2.0
    """
    check_features(f, g)
    M_f, M_g, T = _gram(f, f), _gram(g, g), _gram(f, g)
    distortion = _metric_distortion(M_f, epsilon) + _metric_distortion(M_g, epsilon)
    if relaxed:
        norms = torch.linalg.matrix_norm(M_f, 2) * torch.linalg.matrix_norm(M_g, 2)
        score = T.abs().square().sum() / norms
    else:
        score = -vamp_loss(f, g, "2", epsilon)
    return metric_weight * distortion - score


def _metric_distortion(M: Tensor, epsilon: float) -> Tensor:
    values = torch.linalg.eigvalsh(M)
    floor = epsilon * values.detach().mean()
    return (values.square() - values - values.clamp_min(floor).log()).sum()


class NestedLoRALoss(nn.Module):
    """`lora_loss` with its settings stored, plus the orthonormality penalty.

    Parameters
    ----------
    n_modes : number of modes, the constant one included
    nesting, weights, unbiased : see `lora_loss`
    reg_weight : weight of `orthonormality_penalty`
    has_constant : the first feature is the constant mode (`has_centering=True` of the model)

    Raises
    ------
    ValueError
        For an unknown nesting, bad weights, n_modes < 1, reg_weight < 0; when called, for another number of modes.

    Examples
    --------
    >>> loss = NestedLoRALoss(n_modes=2, nesting="seq")
    >>> loss(torch.ones(8, 2), torch.ones(8, 2))   # two copies of the constant function: -2*2 + 4
    tensor(0.)
    """

    def __init__(
        self,
        n_modes: int,
        nesting: str | None = "jnt",
        reg_weight: float = 0.0,
        weights: Sequence[float] | None = None,
        unbiased: bool = True,
        has_constant: bool = False,
    ) -> None:
        super().__init__()
        check_nesting(nesting)
        if n_modes < 1:
            raise ValueError(f"n_modes must be at least 1; got {n_modes}.")
        if not reg_weight >= 0:
            raise ValueError(f"reg_weight must not be negative; got {reg_weight}.")
        if weights is not None:
            if nesting != "jnt":
                raise ValueError(f"weights belong to nesting='jnt'; got nesting={nesting!r}. Leave weights out.")
            nesting_weights(n_modes, weights)
        self.n_modes, self.nesting, self.reg_weight = n_modes, nesting, float(reg_weight)
        self.weights, self.unbiased, self.has_constant = weights, unbiased, has_constant

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None) -> Tensor:
        """Loss of a batch of unscaled features, each (batch, n_modes)."""
        if f.ndim != 2 or f.shape[1] != self.n_modes:
            raise ValueError(f"f must have shape (batch, n_modes={self.n_modes}); got {tuple(f.shape)}.")
        loss = lora_loss(f, g, svals, self.nesting, self.weights, self.unbiased)
        if self.reg_weight > 0:
            loss = loss + self.reg_weight * orthonormality_penalty(f, g, self.has_constant)
        return loss


class VAMPLoss(nn.Module):
    """`vamp_loss` behind the same call as `NestedLoRALoss`; svals only rescale features, which leaves it unchanged.

    Examples
    --------
    >>> VAMPLoss(score="3")
    Traceback (most recent call last):
    ValueError: score must be one of '1', '2', 'E'; got '3'.
    """

    def __init__(self, score: str = "2", epsilon: float = 1e-6) -> None:
        super().__init__()
        if score not in ("1", "2", "E"):
            raise ValueError(f"score must be one of '1', '2', 'E'; got {score!r}.")
        self.score, self.epsilon = score, epsilon

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None) -> Tensor:
        """Negative score of a batch."""
        f, g = scale_by_svals(f, g, svals)
        return vamp_loss(f, g, self.score, self.epsilon)


class DPNetLoss(nn.Module):
    """`dpnet_loss` behind the same call as `NestedLoRALoss`.

    Examples
    --------
    >>> f = torch.eye(2, dtype=torch.float64) * 2**0.5
    >>> round(DPNetLoss(relaxed=True)(f, f).item(), 4)
    -2.0
    """

    def __init__(self, relaxed: bool = True, metric_weight: float = 1.0, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.relaxed, self.metric_weight, self.epsilon = relaxed, metric_weight, epsilon

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None) -> Tensor:
        """Negative objective of a batch."""
        f, g = scale_by_svals(f, g, svals)
        return dpnet_loss(f, g, self.relaxed, self.metric_weight, self.epsilon)
