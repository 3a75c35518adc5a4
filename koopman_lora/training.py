"""`fit`: from pairs to trained, normalised features, in one call."""

from __future__ import annotations

from torch import nn

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split, as_split
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.normalisation import normalise
from koopman_lora.training_loop import (
    TrainingLoop,
    TrainingOptions,
    TrainingResult,
    check_positive,
    fork_seed,
    quiet_fabric,
)


def fit(
    model: KoopmanLoRAModel,
    pairs: LaggedPairs | Split,
    *,
    loss: nn.Module | None = None,
    n_epochs: int | None = None,
    batch_size: int = 256,
    options: TrainingOptions | None = None,
    seed: int = 0,
    progress: bool = False,
) -> TrainingResult:
    """Train a model on lagged pairs; the state with the best held-out VAMP-E is restored.

    Best is the latest epoch whose score is within one standard error (jackknife over blocks of the held-out pairs, of
    the paired difference) of the highest: `TrainingResult.best_epoch`.

    Adam with a one-cycle schedule; batches are drawn from memory. After the loop the features' normalisation is frozen
    by the exact moments of the training pairs, and the learned singular values end at the minimum of the loss for these
    features.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained in place; it takes the clock of the pairs.
    pairs : LaggedPairs or Split
        Pairs are split by `split_pairs(pairs, seed=seed)`; for another split, none, or pairs of your own, give the
        split: `split_pairs(pairs, 0.2)`, `split_pairs(pairs, 0)`, `Split.given(training, held_out)`.
    loss : module called as `loss(f, g, svals)`, `NestedLoRALoss(n_modes)` by default
    n_epochs : int, optional
        By default enough for 950 optimisation steps, at least 5.
    batch_size : int
    options : TrainingOptions, optional
    seed : int
        Of the split and the order of batches; torch's global random state is left as it was.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        For options out of range, a batch smaller than n_modes, or states that do not fit the model.
    NonFiniteLossError
        When the loss becomes NaN or infinite.

    Examples
    --------
    >>> model = KoopmanLoRAModel(1, 3, hidden_dims=(8,), has_centering=True)
    >>> series = np.sin(np.arange(500) / 7.0)[:, None]
    >>> fit(model, lagged_pairs(series), n_epochs=2).history.sizes["epoch"]
    2
    """
    result = train(
        model,
        as_split(pairs, seed),
        loss=loss,
        n_epochs=n_epochs,
        batch_size=batch_size,
        options=options,
        seed=seed,
        progress=progress,
    )
    freeze(model, raw_moments(model, result.split.training))
    return result


def train(
    model: KoopmanLoRAModel,
    split: Split,
    *,
    loss: nn.Module | None = None,
    n_epochs: int | None = None,
    batch_size: int = 256,
    options: TrainingOptions | None = None,
    seed: int = 0,
    progress: bool = False,
) -> TrainingResult:
    """`fit` without its last pass over the pairs: the features' normalisation is left to `freeze`."""
    options = options or TrainingOptions()
    for name, value in (("batch_size", batch_size), ("n_epochs", n_epochs)):
        check_positive(name, value)
    if split.pairs.state_shape != model.state_shape:
        raise ValueError(f"model takes states of shape {model.state_shape}; pairs hold {split.pairs.state_shape}.")
    training = split.training
    if len(training) < 2 or min(batch_size, len(training)) < model.n_modes:
        raise ValueError(
            f"batch_size must be at least n_modes={model.n_modes} to estimate its moments; got batch_size={batch_size} "
            f"with {len(training)} training pairs."
        )
    model.clock = split.pairs.clock
    with quiet_fabric(), fork_seed(seed):
        return TrainingLoop(model, split, loss, options).run(n_epochs, batch_size, progress)


def raw_moments(model: KoopmanLoRAModel, pairs: LaggedPairs) -> Moments:
    """Moments M_f, M_g, T_fg of a model's features before normalisation."""
    return estimate_moments(*model.raw_maps(), pairs, n_blocks=1, names=CROSS)


def freeze(model: KoopmanLoRAModel, raw: Moments, is_refined: bool = False) -> Moments:
    """Exact normalisation, and the end values of svals, from moments of the raw features.

    Parameters
    ----------
    raw : of `model.raw_maps()`
    is_refined : svals are the canonical singular values, which are the minimum of the loss for features that `refine`
        made orthonormal; otherwise they are looked for

    Returns
    -------
    Moments of the normalised features
    """
    model.eval()
    if not model.normalizes:
        return raw
    normal = normalise(raw, model.has_centering, model.learn_svals, is_refined)
    model.set_normalisation(*normal.as_tensors())
    return normal.moments
