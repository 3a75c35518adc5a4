"""Losses to compare the LoRA objective with: VAMP scores and DPNet (docs/mathematics.md, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from koopman_lora.batch_means import check_pair_weights, grams
from koopman_lora.checks import checked
from koopman_lora.losses import NonFiniteLossError, check_features, real_dot, scale_by_svals


def _inverse_root(M: Tensor, epsilon: float) -> Tensor:
    """`(M + epsilon mean(diag M) I)^{-1/2}`, differentiable."""
    ridge = epsilon * M.diagonal().real.mean()
    try:
        values, vectors = torch.linalg.eigh(M + ridge * torch.eye(M.shape[0], dtype=M.dtype, device=M.device))
    except torch.linalg.LinAlgError as error:
        raise NonFiniteLossError("f or g hold NaN or inf, or numbers that have no eigenvalues.") from error
    return (vectors * values.clamp_min(ridge.detach()).rsqrt().to(M.dtype)) @ vectors.mH


def vamp_loss(
    f: Tensor, g: Tensor, score: str = "2", epsilon: float = 1e-6, pair_weights: Tensor | None = None
) -> Tensor:
    """Negative VAMP score of a batch; unchanged by invertible linear maps of f or of g, so there is no use for svals.

    Parameters
    ----------
    score : '1' (sum of sigma), '2' (sum of sigma^2) or 'E' (the estimation score at the batch's own solution)
    epsilon : ridge of the whitening, relative to the mean second moment
    pair_weights : see `lora_loss`

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
    if not isinstance(score, str) or score not in ("1", "2", "E"):
        raise ValueError(f"score must be one of '1', '2', 'E'; got {score!r}.")
    M_f, M_g, T = _moments_of_batch(f, g, pair_weights)
    W_f, W_g = _inverse_root(M_f, epsilon), _inverse_root(M_g, epsilon)
    whitened = W_f @ T @ W_g
    if score == "2":
        return -whitened.abs().square().sum()
    if score == "1":
        return -torch.linalg.svdvals(whitened).sum()
    K = W_f @ whitened @ W_g  # sum_i sigma_i u_i v_i^H: K_hat(x, x') = f(x) K g(x')^H
    return -(2.0 * real_dot(K, T).sum() - real_dot(M_f @ K @ M_g, K).sum())


def _moments_of_batch(f: Tensor, g: Tensor, pair_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    check_pair_weights(pair_weights, f)
    M_f, M_g, T = grams([(f, f), (g, g), (f, g)], pair_weights)
    return M_f, M_g, T


def dpnet_loss(
    f: Tensor,
    g: Tensor,
    relaxed: bool = True,
    metric_weight: float = 1.0,
    epsilon: float = 1e-6,
    pair_weights: Tensor | None = None,
) -> Tensor:
    """Deep-projection loss: projection score minus the metric distortion `tr(M^2 - M - ln M)` of both features.

    Parameters
    ----------
    relaxed : divide by the operator norms of M_f and M_g instead of whitening
    metric_weight : weight of the metric distortion
    epsilon : ridge relative to the mean second moment, for whitening and logarithm
    pair_weights : see `lora_loss`

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
    M_f, M_g, T = _moments_of_batch(f, g, pair_weights)
    distortion = _metric_distortion(M_f, epsilon) + _metric_distortion(M_g, epsilon)
    if relaxed:
        norms = torch.linalg.matrix_norm(M_f, 2) * torch.linalg.matrix_norm(M_g, 2)
        score = T.abs().square().sum() / norms
    else:
        score = -vamp_loss(f, g, "2", epsilon, pair_weights)
    return metric_weight * distortion - score


def _metric_distortion(M: Tensor, epsilon: float) -> Tensor:
    try:
        values = torch.linalg.eigvalsh(M)
    except torch.linalg.LinAlgError as error:
        raise NonFiniteLossError("f, g or svals hold NaN or inf, so that there are no eigenvalues.") from error
    floor = epsilon * values.detach().mean()
    return (values.square() - values - values.clamp_min(floor).log()).sum()


class VAMPLoss(nn.Module):
    """`vamp_loss` behind the same call as `NestedLoRALoss`; svals only rescale features, which leaves it unchanged.

    Parameters
    ----------
    score, epsilon : see `vamp_loss`

    Examples
    --------
    >>> VAMPLoss(score="3")
    Traceback (most recent call last):
    ValueError: score must be one of '1', '2', 'E'; got '3'.
    """

    @checked(but=("score",))
    def __init__(self, score: str = "2", epsilon: float = 1e-6) -> None:
        super().__init__()
        if not isinstance(score, str) or score not in ("1", "2", "E"):
            raise ValueError(f"score must be one of '1', '2', 'E'; got {score!r}.")
        self.score, self.epsilon = score, epsilon

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None, pair_weights: Tensor | None = None) -> Tensor:
        """Negative score of a batch."""
        f, g = scale_by_svals(f, g, svals)
        return vamp_loss(f, g, self.score, self.epsilon, pair_weights)


class DPNetLoss(nn.Module):
    """`dpnet_loss` behind the same call as `NestedLoRALoss`.

    Parameters
    ----------
    relaxed, metric_weight, epsilon : see `dpnet_loss`

    Examples
    --------
    >>> f = torch.eye(2, dtype=torch.float64) * 2**0.5
    >>> round(DPNetLoss(relaxed=True)(f, f).item(), 4)
    -2.0
    """

    @checked
    def __init__(self, relaxed: bool = True, metric_weight: float = 1.0, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.relaxed, self.metric_weight, self.epsilon = relaxed, metric_weight, epsilon

    def forward(self, f: Tensor, g: Tensor, svals: Tensor | None = None, pair_weights: Tensor | None = None) -> Tensor:
        """Negative objective of a batch."""
        f, g = scale_by_svals(f, g, svals)
        return dpnet_loss(f, g, self.relaxed, self.metric_weight, self.epsilon, pair_weights)
