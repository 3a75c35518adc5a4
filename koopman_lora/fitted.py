"""`Fitted`: everything that a fit leaves behind, facts without questions; what is saved, loaded and asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from koopman_lora.accumulation import flat_state, moments_by_block
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.splits import Split, SplitRecipe
from koopman_lora.findings import Finding, findings_of_pairs, training_findings
from koopman_lora.further_fits import Train
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.normalisation import normalise
from koopman_lora.processes import made_by_first
from koopman_lora.refinement import RefinementResult, rewrite_heads
from koopman_lora.scores import Validation
from koopman_lora.survey import Survey
from koopman_lora.training_loop import TrainingResult

# Blocks that a bootstrap resamples: enough for Student's t, each still longer than the memory of most data.
MOMENT_BLOCKS = 64
# Entries of a state up to which its projections on the features are kept, so that forecasts need no frames.
KEPT_ENTRIES = 1024
# What a pair is in a split; those between training and held-out pairs share a frame with both.
BETWEEN, TRAINING, HELD_OUT = range(3)
N_PARTS = 3


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
    findings : that the training was interrupted; what was wrong with the features before refinement, and with the fit
        at the held-out pairs
    fits : how several fits agree, see `compare_fits`; None of a single one
    survey : what the frames said when the analysis was saved; None where they are at hand
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
    fits: xr.Dataset | None
    survey: Survey | None
    history: xr.Dataset
    recipe: SplitRecipe
    fingerprint: str
    seed: int
    settings: Mapping[str, Any]
    split: Split | None


def finish(
    model: KoopmanLoRAModel,
    training: TrainingResult,
    refine: bool,
    batch_size: int,
    seed: int,
    settings: Mapping[str, Any],
    train: Train | None = None,
) -> Fitted:
    """From a trained model to all that is known of its fit: refinement, normalisation, moments, validation.

    Parameters
    ----------
    model : as `training.train` leaves it; changed in place
    refine : finish with Rayleigh-Ritz on the state and the last hidden layers
    batch_size, seed, settings : of the training, for the findings and for the record
    train : how to train once more, for what the held-out pairs do not tell, see `further_fits`
    """
    split, refinement, trained = training.split, None, None
    if refine:
        refinement, trained = rewrite_heads(model, split, train=train)
    # blocks to resample, cut where training and held-out pairs meet, so that sums over either are sums over cells
    cell = N_PARTS * block_numbers(split.pairs, MOMENT_BLOCKS) + BETWEEN
    cell[split.is_training] += TRAINING - BETWEEN
    cell[split.is_held_out] += HELD_OUT - BETWEEN
    cells = np.unique(cell)
    observables = flat_state if math.prod(model.state_shape) <= KEPT_ENTRIES else None
    raw = moments_by_block(*model.raw_maps(), split.pairs, cell, observables=observables)
    # un-refined features are normalised by the training pairs, refined ones, which were solved from all pairs, by all
    known = raw if refine else raw.selected(cells % N_PARTS == TRAINING)
    normal = normalise(known, model.has_centering, model.learn_svals, is_refined=refine)
    model.set_normalisation(*normal.as_tensors())
    given = None
    if split.held_out is not None and not split.is_held_out.any():  # pairs of the user's own
        given = moments_by_block(model.f, model.g, split.held_out, np.zeros(len(split.held_out)))
    moments = raw.transformed(*normal.maps)
    in_training, in_held_out = (moments.joined(cells % N_PARTS == number) for number in (TRAINING, HELD_OUT))
    validation = None if refinement is None else refinement.validation
    if split.held_out is not None and refinement is None:
        validation = Validation.of_features(normal.moments, (model.f, model.g), split.held_out)
    trained = trained or normal
    everywhere = moments.merged(cells // N_PARTS)
    told = (training.finding, None if refinement is None else refinement.finding)
    findings = [finding for finding in told if finding is not None]
    findings += training_findings(trained.moments, trained.svals, batch_size)
    findings += findings_of_pairs(everywhere, validation)
    return Fitted(
        model=model,
        moments=FittedMoments(everywhere, in_training or moments, in_held_out or given),
        validation=validation,
        refinement=refinement,
        findings=tuple(findings),
        fits=None,
        survey=None,
        history=training.history,
        recipe=split.recipe,
        fingerprint=made_by_first(split.pairs.fingerprint),
        seed=seed,
        settings=settings,
        split=split,
    )
