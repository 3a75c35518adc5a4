"""`Split`: training and held-out pairs that share no frame, made once, with the recipe that made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.data.groups import SPLIT_BLOCKS, split_groups, without_overlap
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.kinds import Seed, is_real


@dataclasses.dataclass(frozen=True)
class SplitRecipe:
    """How a split was made; with the same pairs it makes the same split again.

    Attributes
    ----------
    by : 'trajectory', 'blocks' or 'auto' as asked for, 'given' for pairs of the user's own, 'none' without held-out
        pairs
    held_out : fraction asked for
    n_blocks, seed : see `split_pairs`
    """

    by: str
    held_out: float = 0.0
    n_blocks: int = SPLIT_BLOCKS
    seed: int = 0


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Training and held-out pairs that share no frame. Unpacks as `training, held_out = split`.

    Attributes
    ----------
    pairs : all pairs that a fit may use once it is done with the held-out ones
    is_training, is_held_out : masks (n_pairs,) over `pairs`; neither is True for pairs in the gaps between them
    recipe : how it was made
    held_out : the held-out pairs, None where nothing is held out

    Examples
    --------
    >>> split = kl.split_pairs(lagged_pairs(np.arange(100.0)), held_out=0.2)
    >>> training, held_out = split
    >>> set(training.x.ravel().tolist()) & set(held_out.x.ravel().tolist())
    set()
    """

    pairs: LaggedPairs
    is_training: np.ndarray
    is_held_out: np.ndarray
    recipe: SplitRecipe
    held_out: LaggedPairs | None

    @property
    def training(self) -> LaggedPairs:
        """The pairs to train on."""
        return self.pairs if self.is_training.all() else self.pairs.select(self.is_training)

    def __iter__(self) -> Iterator[LaggedPairs | None]:
        return iter((self.training, self.held_out))

    def __repr__(self) -> str:
        n_held_out = 0 if self.held_out is None else len(self.held_out)
        return f"Split({int(self.is_training.sum())} training and {n_held_out} held-out pairs, {self.recipe})"

    @classmethod
    def given(cls, training: LaggedPairs, held_out: LaggedPairs | None = None) -> Split:
        """A split of your own: pairs to train on, and others that share no frame with them.

        Raises
        ------
        ValueError
            If training and held-out pairs differ in clock or state.
        """
        none = np.zeros(len(training), dtype=bool)
        if held_out is None:
            return cls(training, ~none, none, SplitRecipe("none"), None)
        if training.clock != held_out.clock:
            raise ValueError(
                f"training and held_out: their clocks must be one and the same here; got {training.clock} and "
                f"{held_out.clock}."
            )
        if training.is_reversible != held_out.is_reversible:
            raise ValueError("training and held_out must both be pairs.both_ways(), or neither.")
        if training.state_shape != held_out.state_shape:
            raise ValueError(
                f"training and held_out must be pairs of one kind of state; got {training.state_shape} and "
                f"{held_out.state_shape}."
            )
        return cls(training, ~none, none, SplitRecipe("given"), held_out)


@checked(but=("held_out",))
def split_pairs(
    pairs: LaggedPairs, held_out: float = 0.1, by: str = "auto", n_blocks: int = SPLIT_BLOCKS, seed: Seed = 0
) -> Split:
    """Split into training and held-out pairs that share no frame.

    Parameters
    ----------
    held_out : float
        Fraction to hold out, at least 0 and below 1; 0 for none.
    by : 'trajectory', 'blocks' or 'auto'
        Whole trajectories; or contiguous blocks of time, where training pairs that share a frame with a held-out pair
        are dropped (a gap of one lag on each side); 'auto' takes trajectories when there are at least 20.
    n_blocks : int
        Blocks that all pairs together are cut into; a fraction `held_out` of them is drawn.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        For an unknown `by`, a fraction outside [0, 1), pairs of unknown lag, or data too short to leave pairs on both
        sides, of which some have a weight above 0.

    Examples
    --------
    >>> split = split_pairs(lagged_pairs(np.random.default_rng(0).normal(size=1001)), held_out=0.1)
    >>> len(split.held_out), len(split.training) <= 898
    (100, True)
    """
    if not is_real(held_out) or not 0 <= held_out < 1:
        raise ValueError(f"held_out must be a fraction of at least 0 and below 1; got {held_out}.")
    if len(pairs) == 0:
        raise ValueError("pairs are empty; give at least one pair (x, x_next).")
    if held_out == 0:
        return Split.given(pairs)
    group = split_groups(pairs, by, n_blocks)
    n_groups = int(group.max()) + 1
    n_held = min(max(1, round(held_out * n_groups)), n_groups - 1)
    chosen = np.random.default_rng(seed).permutation(n_groups)[:n_held]
    is_chosen = np.zeros(n_groups, dtype=bool)
    is_chosen[chosen] = True
    held = is_chosen[group]
    train = without_overlap(pairs, held)
    if not held.any() or train.sum() < 2:
        raise ValueError(f"held_out={held_out} leaves too few of {len(pairs)} pairs to train on; give more data.")
    if pairs.weights is not None and not (pairs.weights[train].any() and pairs.weights[held].any()):
        raise ValueError(
            f"held_out={held_out} leaves pairs of weight 0 alone on one side; give another seed, or leave them out."
        )
    return Split(pairs, train, held, SplitRecipe(by, held_out, n_blocks, seed), pairs.select(held))


def as_split(data: LaggedPairs | Split, seed: int = 0) -> Split:
    """The split itself, or the default split of pairs."""
    if isinstance(data, Split):
        return data
    if isinstance(data, LaggedPairs):
        return split_pairs(data, seed=seed)
    raise TypeError(f"pairs must be LaggedPairs or a Split of them; got {type(data).__name__}. Use kl.lagged_pairs.")
