"""The held-out score of every epoch, and which of two states is worse."""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.data.states import in_both_directions
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.processes import made_by_all, part_of
from koopman_lora.scores import jackknife_error, span_vamp_2

# Held-out pairs that the score of an epoch sees at most, however many there are, and their blocks.
MOST_SCORED, SCORE_BLOCKS = 20_000, 16


class EpochScore(NamedTuple):
    """Held-out score after an epoch, and its values with one block of the held-out pairs left out."""

    epoch: int
    value: float
    leaving_out: np.ndarray

    def is_worse_than(self, best: EpochScore) -> bool:
        """Whether the distance to `best` is more than one standard error, paired over blocks.

        Scores of neighbouring epochs differ by noise; of states that cannot be told apart the later one has the smaller
        learning rate behind it, and less noise in its weights.
        """
        paired = jackknife_error(best.leaving_out - self.leaving_out)
        # a state that fails on a few outliers has a huge paired error: that must not excuse it
        return best.value - self.value > float(min(paired, jackknife_error(best.leaving_out)))


class HeldOutScores:
    """Scores of a model's features, whatever their normalisation, at the held-out pairs, spread evenly over them.

    Of several processes each looks at its part of the blocks.
    """

    def __init__(self, model: KoopmanLoRAModel, pairs: LaggedPairs) -> None:
        self.model = model
        rows = np.arange(len(pairs)) if pairs.weights is None else np.flatnonzero(pairs.weights)
        pairs = pairs.select(rows[:: math.ceil(len(rows) / MOST_SCORED)])
        x, x_next = pairs.read(slice(None))
        with torch.no_grad():
            self.states = model.prepare(x), model.prepare(x_next)
            if pairs.is_reversible:
                self.states = in_both_directions(*self.states)
        weights = pairs.weights
        if weights is not None and pairs.is_reversible:
            weights = np.repeat(weights, 2)
        n = len(self.states[0])
        bounds = np.linspace(0, n, min(SCORE_BLOCKS, n) + 1).astype(int)
        mine = part_of(len(bounds) - 1)
        bounds = bounds[mine.start : mine.stop + 1]
        self.states = self.states[0][bounds[0] : bounds[-1]], self.states[1][bounds[0] : bounds[-1]]
        self.block_sizes = np.diff(bounds).tolist()
        self.weights: tuple[tuple[Tensor, ...], ...] = ()
        if weights is not None:
            self.weights = (torch.from_numpy(weights[bounds[0] : bounds[-1]]).split(self.block_sizes),)

    def score(self, epoch: int) -> EpochScore:
        """VAMP-2 of the span of the features: the span is all that refinement takes of them."""
        self.model.eval()
        test = self._moments()
        # a single held-out pair tells no error: then the highest score is the best
        leaving_out = span_vamp_2(test.leaving_out()) if test.n_blocks > 1 else np.zeros(2)
        return EpochScore(epoch, float(span_vamp_2(test)), leaving_out)

    def _moments(self) -> Moments:
        parts = [part for part in made_by_all(self._of_this_process) if part is not None]
        return functools.reduce(operator.add, parts)

    def _of_this_process(self) -> Moments | None:
        """None where there are fewer blocks than processes."""
        if not self.block_sizes:
            return None
        # whitening makes the score independent of the normalisation, which is frozen only at the end
        with torch.no_grad():
            batches = zip(*(side.split(BATCH) for side in self.states), strict=True)
            f, g = zip(*(self.model.raw(*batch) for batch in batches), strict=True)
            features = (self.model.with_constant(torch.cat(side)).split(self.block_sizes) for side in (f, g))
        blocks = zip(*features, *self.weights, strict=True)
        return estimate_moments(_same, _same, blocks, n_blocks=SCORE_BLOCKS, names=CROSS)


def _same(features: Tensor) -> Tensor:
    return features
