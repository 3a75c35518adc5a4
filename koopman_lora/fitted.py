"""`Fitted`: everything that a fit leaves behind, facts without questions; what is saved, loaded and asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from koopman_lora.accumulation import estimate_moments, flat_state, moments_by_block
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.splits import Split, SplitRecipe
from koopman_lora.findings import Finding
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.refinement import RefinementResult
from koopman_lora.scores import Validation
from koopman_lora.training import freeze

# Blocks that a bootstrap resamples: enough for Student's t, each still longer than the memory of most data.
MOMENT_BLOCKS = 64
# Entries of a state up to which its projections on the features are kept, so that forecasts need no frames.
KEPT_ENTRIES = 1024


class FittedMoments(NamedTuple):
    """Moments of the fitted features, normalised and not scaled by svals.

    Attributes
    ----------
    everywhere : over all pairs, per block; with the states as observables unless they are very large
    training, held_out : over the training and the held-out pairs, in one block each; None where there are none
    """

    everywhere: Moments
    training: Moments
    held_out: Moments | None


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model and all that is known of its fit.

    Attributes
    ----------
    model : KoopmanLoRAModel, with its clock
    moments : FittedMoments
    validation : of pairs that nothing was fitted to; None where nothing was held out
    refinement : what the refinement did; None where it was not asked for
    findings : what was wrong with the features before refinement
    history : Dataset over epochs
    recipe : how the pairs were split
    fingerprint : of the pairs
    seed : of the fit, and of the bootstraps of its analysis
    settings : of the estimator, for the record
    split : the pairs themselves; None in an analysis that was opened without data
    """

    model: KoopmanLoRAModel
    moments: FittedMoments
    validation: Validation | None
    refinement: RefinementResult | None
    findings: tuple[Finding, ...]
    history: xr.Dataset
    recipe: SplitRecipe
    fingerprint: str
    seed: int
    settings: Mapping[str, Any]
    split: Split | None


def freeze_on(model: KoopmanLoRAModel, split: Split, is_refined: bool) -> FittedMoments:
    """`freeze` the model's normalisation, and its moments, in one pass over the pairs.

    Un-refined features are normalised by the training pairs, refined ones, which were solved from all pairs, by all.
    """
    kind = np.where(split.is_training, 1, np.where(split.is_held_out, 2, 0))
    cell = 3 * block_numbers(split.pairs, MOMENT_BLOCKS) + kind
    observables = flat_state if math.prod(model.state_shape) <= KEPT_ENTRIES else None
    raw = moments_by_block(*model.raw_maps(), split.pairs, cell, observables=observables)
    cells = np.unique(cell)
    freeze(model, raw if is_refined else raw.selected(cells % 3 == 1), is_refined)
    moments = raw.transformed(model.normalisation(0), model.normalisation(1))
    held_out = None
    if split.is_held_out.any():
        held_out = _one_block(moments.selected(cells % 3 == 2))
    elif split.held_out is not None:  # pairs of the user's own
        held_out = estimate_moments(model.f, model.g, split.held_out, n_blocks=1)
    return FittedMoments(moments.merged(cells // 3), _one_block(moments.selected(cells % 3 == 1)), held_out)


def _one_block(moments: Moments) -> Moments:
    return moments.merged(np.zeros(moments.n_blocks))
