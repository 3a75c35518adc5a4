"""Rayleigh-Ritz on the last hidden layer: its best singular functions, written into the last linear layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD, inverse_root, whitened_svd
from koopman_lora.model import KoopmanLoRAModel, prepend_constant
from koopman_lora.moments import FeatureMap, Moments, estimate_moments
from koopman_lora.scores import Validation, vamp_e_leaving_out, vamp_scores
from koopman_lora.trajectories import LaggedPairs, split_pairs

# Relative whitening thresholds to choose from; small ones over-fit, large ones under-fit (MATH.md, section 5).
THRESHOLDS = tuple(10.0**-e for e in np.arange(2.0, 10.5, 0.5))


class RefinementResult(NamedTuple):
    """What `refine` did to the model.

    Attributes
    ----------
    is_refined : False where the un-refined state scored better on held-out pairs and was kept
    threshold : relative whitening threshold chosen; NaN where the un-refined state was kept
    score_before, score_after : held-out VAMP-E
    thresholds, scores : thresholds tried and their held-out VAMP-E, -inf where too few directions were left
    validation : the same solution from the training pairs alone, evaluated at the held-out pairs
    """

    is_refined: bool
    threshold: float
    score_before: float
    score_after: float
    thresholds: np.ndarray
    scores: np.ndarray
    validation: Validation


def refine(
    model: KoopmanLoRAModel,
    pairs: LaggedPairs,
    held_out: float | LaggedPairs = 0.1,
    thresholds: tuple[float, ...] = THRESHOLDS,
    seed: int = 0,
) -> RefinementResult:
    """Replace the last linear layers by the top singular functions in the span of the last hidden layers.

    The whitening threshold is the one with the best held-out VAMP-E; the solution written into the model is then
    computed from all of `pairs`. Where the gain over the model as it is, on average or in the median held-out block, is
    not positive, the model is left unchanged. Afterwards M_f and M_g are identities, and learned, K_matrix and
    canonical values agree.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained; changed in place. Both encoders must end in an nn.Linear.
    pairs : LaggedPairs
    held_out : float or LaggedPairs
        Fraction of `pairs` to choose the threshold on, or other pairs, which then serve for that choice only.
    thresholds : numbers in (0, 1)

    Raises
    ------
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If the last hidden layer is too narrow for n_modes.

    References
    ----------
    MATH.md, section 5.
    """
    train, test = (pairs, held_out) if isinstance(held_out, LaggedPairs) else split_pairs(pairs, held_out, seed=seed)
    model.eval()
    trunk_train, trunk_test = trunk_moments(model, train), trunk_moments(model, test)
    width = trunk_train.M_f.shape[0]
    if width < model.n_modes:
        raise ValueError(
            f"n_modes={model.n_modes} is more than the last hidden layer can carry ({width - 1} units and the "
            "constant); give a wider last entry of hidden_dims."
        )
    A = _centring(trunk_train)
    centred_train, centred_test = trunk_train.transformed(*A), trunk_test.transformed(*A)
    tried = np.asarray(thresholds, dtype=float)
    scores = np.array([_score(centred_train, centred_test, model.n_modes, t) for t in tried])
    best = int(np.argmax(scores))
    own = own_moments(model, train), own_moments(model, test)
    before = vamp_scores(*own, model.n_modes).vamp_e
    gains = (
        np.isfinite(scores[best]) and _robust_gain(own, (centred_train, centred_test), model.n_modes, tried[best]) > 0
    )
    if not gains:
        return RefinementResult(False, np.nan, before, before, tried, scores, validate(model, train, test))
    validation = _evaluate(_solve(trunk_train, tried[best], model.n_modes), trunk_maps(model), test)
    _write(model, _solve(trunk_moments(model, pairs), tried[best], model.n_modes), pairs)
    return RefinementResult(True, float(tried[best]), before, float(scores[best]), tried, scores, validation)


def _score(train: Moments, test: Moments, n_modes: int, threshold: float) -> float:
    """Held-out VAMP-E, -inf where whitening leaves fewer directions than modes."""
    if min(inverse_root(M, threshold).rank for M in (train.M_f, train.M_g)) < n_modes:
        return -np.inf
    return vamp_scores(train, test, n_modes, threshold).vamp_e


def _robust_gain(own: tuple[Moments, Moments], trunk: tuple[Moments, Moments], n_modes: int, threshold: float) -> float:
    """Gain of held-out VAMP-E: the smaller of its mean and its median over held-out blocks.

    With heavy tails a few frames can make a bad solution look good on average; they cannot turn most blocks.
    """
    gain = vamp_scores(*trunk, n_modes, threshold).vamp_e - vamp_scores(*own, n_modes).vamp_e
    left_out = vamp_e_leaving_out(*trunk, n_modes, threshold) - vamp_e_leaving_out(*own, n_modes)
    per_block = len(left_out) * gain - (len(left_out) - 1) * left_out  # jackknife pseudo-values
    return float(min(gain, np.median(per_block)))


def validate(model: KoopmanLoRAModel, train: LaggedPairs, test: LaggedPairs) -> Validation:
    """Singular functions of the model's features, fitted on `train` and evaluated at `test`."""
    solution = whitened_svd(*_cross(own_moments(model, train)), RANK_TOLERANCE, model.n_modes)
    return _evaluate(solution, own_maps(model), test)


def _centring(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Maps from (1, h) to (1, h - mean of h): so the constant triple stays exact whatever the whitening cuts off."""
    A_f, A_g = (np.eye(len(M), dtype=M.dtype) for M in (moments.M_f, moments.M_g))
    A_f[0, 1:], A_g[0, 1:] = -moments.M_f[0, 1:], -moments.M_g[0, 1:]
    return A_f, A_g


def _solve(moments: Moments, threshold: float, n_modes: int) -> WhitenedSVD:
    """Singular triples in the span of (1, h), the constant one first, in the coordinates of (1, h)."""
    A_f, A_g = _centring(moments)
    others = (M[1:, 1:] for M in _cross(moments.transformed(A_f, A_g)))
    left, values, right = whitened_svd(*others, threshold, n_modes - 1)
    # the constant is set beside them: where other sigma are 1 as well, an SVD of all would mix them with it
    left, right = (np.pad(c, ((1, 0), (1, 0))) for c in (left, right))
    left[0, 0] = right[0, 0] = 1.0
    return WhitenedSVD(A_f @ left, np.concatenate([[1.0], values]), A_g @ right)


def _evaluate(solution: WhitenedSVD, maps: tuple[FeatureMap, FeatureMap], test: LaggedPairs) -> Validation:
    with torch.no_grad():
        f, g = (
            np.concatenate([encode(batch).cpu().numpy() for batch in states.split(8192)])
            for encode, states in zip(maps, (test.x, test.x_next), strict=True)
        )
    return Validation(solution.values, f @ solution.left, g @ solution.right, test)


def trunk_maps(model: KoopmanLoRAModel) -> tuple[FeatureMap, FeatureMap]:
    """Last hidden layers of f and g behind the constant function, as feature maps of raw states."""
    device = model.feature_scale.device
    return tuple(
        lambda x, trunk=trunk: prepend_constant(trunk(model.prepare(x.to(device))))
        for trunk in (model.encoders.trunk_f, model.encoders.trunk_g)
    )


def own_maps(model: KoopmanLoRAModel) -> tuple[FeatureMap, FeatureMap]:
    """Features of a model before normalisation, as feature maps of raw states."""
    device = model.feature_scale.device
    return tuple(
        lambda x, encode=encode: model.with_constant(encode)(model.prepare(x.to(device)))
        for encode in (model.encoders.f, model.encoders.g)
    )


def trunk_moments(model: KoopmanLoRAModel, pairs: LaggedPairs) -> Moments:
    """Moments M_f, M_g, T_fg of the last hidden layers behind the constant function, (1 + width) features."""
    return estimate_moments(*trunk_maps(model), pairs, n_blocks=16, same_map=False)


def own_moments(model: KoopmanLoRAModel, pairs: LaggedPairs) -> Moments:
    """Moments M_f, M_g, T_fg of a model's features before normalisation."""
    return estimate_moments(*own_maps(model), pairs, n_blocks=16, same_map=False)


def _cross(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return moments.M_f, moments.T_fg, moments.M_g


def _write(model: KoopmanLoRAModel, solution: WhitenedSVD, pairs: LaggedPairs) -> None:
    """Put phi and psi into the last layers; where svals are not learned, sqrt(sigma) phi and sqrt(sigma) psi."""
    first = int(model.has_centering)  # the constant mode is not in the layer
    scale = np.ones_like(solution.values) if model.learn_svals else np.sqrt(solution.values)
    weights, biases = [], []
    for coefficients in (solution.left, solution.right):
        layer = torch.as_tensor((coefficients * scale)[:, first:]).to(model.feature_scale)
        weights.append(layer[1:])
        biases.append(layer[0])
    model.encoders.set_heads(weights, biases, model.prepare(pairs.x[:1].to(model.feature_scale.device)))
    model.calibrate(pairs.x, pairs.x_next)
    if model.learn_svals:
        # from the features as the network's precision gives them, so that learned and canonical values are the same
        values = whitened_svd(*_cross(own_moments(model, pairs))).values
        model.set_svals(torch.as_tensor(values))
