"""Further fits, each without a part of the pairs, for a question that held-out pairs do not answer.

The network of a fit has seen its training pairs, and remembers them where they are few: they cannot say whether it
found something. A tenth of the pairs that it has not seen may be too few, or hold no transition. Networks that are
trained without one part each let all pairs judge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np

from koopman_lora.data.groups import SPLIT_BLOCKS, block_numbers, without_overlap
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.finding import Finding
from koopman_lora.losses import NonFiniteLossError
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.training_loop import TrainingResult
from koopman_lora.training_reports import INTERRUPTED

# Parts that the pairs are cut into.
N_PARTS = 4
# Share of the pairs that must be left to train on beside each part: long lags take the pairs around it, too.
LEAST_LEFT = 0.5

Train = Callable[[Split], tuple[KoopmanLoRAModel, TrainingResult]]

logger = logging.getLogger(__name__)


class FurtherFitInterruptedError(Exception):
    """Somebody asked to stop; `finding` says what is done instead."""

    def __init__(self) -> None:
        text = "further fits, which were to tell what to take, were interrupted; the held-out pairs alone choose."
        super().__init__(text)
        self.finding = Finding(INTERRUPTED, text)


def parts_apart(pairs: LaggedPairs, n_least: int = 2) -> list[Split]:
    """Splits of the pairs that hold out one part each, every fourth of 20 blocks; none of pairs too few for that.

    Parameters
    ----------
    n_least : pairs that a training needs

    Examples
    --------
    >>> from koopman_lora.data.pairs import lagged_pairs
    >>> [len(split.held_out) for split in parts_apart(lagged_pairs(np.arange(101.0)))]
    [25, 25, 25, 25]
    >>> parts_apart(lagged_pairs(np.arange(200.0), lag=40))
    []
    """
    part = block_numbers(pairs, SPLIT_BLOCKS) % N_PARTS
    masks = [(without_overlap(pairs, held), held) for held in (part == number for number in range(N_PARTS))]
    if min(left.sum() for left, _ in masks) < max(LEAST_LEFT * len(pairs), n_least):
        return []
    if not all(_counts(pairs, mask) for both in masks for mask in both):
        return []
    return [Split.given(pairs.select(left), pairs.select(held)) for left, held in masks]


def _counts(pairs: LaggedPairs, mask: np.ndarray) -> bool:
    """Whether some pair of a mask counts."""
    return bool(mask.any() if pairs.weights is None else pairs.weights[mask].any())


def further_fits(train: Train, pairs: LaggedPairs, n_least: int) -> Iterator[tuple[KoopmanLoRAModel, Split]]:
    """Trained models and the splits that held out one part for each; one that comes to nothing says nothing.

    Raises
    ------
    FurtherFitInterruptedError
        Whoever stops one wants no other.
    """
    parts = parts_apart(pairs, n_least)
    for number, split in enumerate(parts, 1):
        logger.info("further fit %d of %d, for what the held-out pairs do not tell", number, len(parts))
        try:
            model, training = train(split)
        except NonFiniteLossError as error:
            logger.info("it came to nothing: %s", error)
            continue
        if training.stop_reason == INTERRUPTED:
            raise FurtherFitInterruptedError
        yield model, split
