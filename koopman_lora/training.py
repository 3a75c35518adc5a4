"""`fit`: from pairs to trained, normalised features, in one call."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora.accumulation import estimate_moments
from koopman_lora.arguments import check_positive, whole
from koopman_lora.blas_threads import one_blas_thread
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split, as_split
from koopman_lora.encoder_pairs import EncoderPair
from koopman_lora.launching import all_processes
from koopman_lora.losses import check_loss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.normalisation import normalise
from koopman_lora.ritz import head_matrices
from koopman_lora.surroundings import gradients
from koopman_lora.training_loop import TrainingLoop, TrainingResult
from koopman_lora.training_options import TrainingOptions


def fit(
    model: KoopmanLoRAModel,
    pairs: LaggedPairs | Split,
    *,
    loss: nn.Module | None = None,
    n_epochs: int | None = None,
    batch_size: int = 256,
    options: TrainingOptions | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> TrainingResult:
    """Train a model on lagged pairs; the state whose features span the most held-out VAMP-2 is restored.

    That is the latest epoch whose score is within one standard error (jackknife over blocks of the held-out pairs, of
    the paired difference) of the highest: `TrainingResult.best_epoch`.

    Adam with a one-cycle schedule; batches are drawn from memory. After the loop the features' normalisation is frozen
    by the exact moments of the training pairs, and the learned singular values end at the minimum of the loss for these
    features.

    With `TrainingOptions(checkpoint="folder")` the run is kept there, and goes on with `resume=True` from where it was
    killed, as if nothing had happened.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained in place; it takes the clock of the pairs.
    pairs : LaggedPairs or Split
        Pairs are split by `split_pairs(pairs, seed=seed)`; for another split, none, or pairs of your own, give the
        split: `split_pairs(pairs, 0.2)`, `split_pairs(pairs, 0)`, `Split.given(training, held_out)`.
    loss : module called as `loss(f, g, svals)`
        By default `NestedLoRALoss(n_modes)`, with a `joint_share` of 1/64 where `options` say that the features will be
        refined. Pairs with weights come in batches as often as these say: a loss need not know them.
    n_epochs : int, optional
        Passes over the pairs. By default 950 optimisation steps, with the cube root of the pairs beyond 40,000, or
        250 to 1,000 with their sixth root, of plenty of pairs whose features will be refined; they count as epochs of
        50 steps.
    batch_size : int
    options : TrainingOptions, optional
    seed : int
        Of the split and the order of batches. Torch's global random state is left as it was, and fits in several
        threads are those of one after the other; they wait for one another where layers of your own, or dropout, may
        draw from it.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Warns
    -----
    UserWarning
        When Ctrl-C or SIGTERM ended the training between two steps; the model is as good as it got, and can be used. A
        second one stops at once.

    Raises
    ------
    ValueError
        For options out of range, a batch smaller than n_modes, a model in half precision, or states or encoders that do
        not fit the model, or a checkpoint that is damaged or of another fit; nothing is trained then, and the model is
        as it was.
    FileExistsError
        For a folder with a checkpoint, without `resume`.
    TypeError
        For a model, pairs, a loss or options of another kind.
    NonFiniteLossError
        When the loss becomes NaN or infinite.

    Examples
    --------
    >>> model = KoopmanLoRAModel(1, 3, hidden_dims=(8,), has_centering=True)
    >>> series = np.sin(np.arange(500) / 7.0)[:, None]
    >>> fit(model, lagged_pairs(series), n_epochs=2).history.sizes["epoch"]
    2
    """
    with gradients(), all_processes(_checked_options(options)), one_blas_thread():
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
        if result.finding is not None:
            warnings.warn(result.finding.message, stacklevel=2)
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
    progress: bool | None = None,
) -> TrainingResult:
    """`fit` without its last pass over the pairs: the features' normalisation is left to `freeze`."""
    options = _checked_options(options)
    _check_kinds(model, loss)
    batch_size, seed = whole("batch_size", batch_size), whole("seed", seed)
    n_epochs = None if n_epochs is None else whole("n_epochs", n_epochs)
    for name, value in (("batch_size", batch_size), ("n_epochs", n_epochs)):
        check_positive(name, value)
    if split.pairs.state_shape != model.state_shape:
        raise ValueError(f"model takes states of shape {model.state_shape}; pairs hold {split.pairs.state_shape}.")
    training = split.training
    if min(batch_size, len(training)) < max(model.n_modes, 2):
        raise ValueError(
            f"batch_size must be at least n_modes={model.n_modes} (and 2) to estimate moments; got "
            f"batch_size={batch_size} with {len(training)} training pairs."
        )
    with gradients(), all_processes(options):
        _check_model(model, training.read_x(slice(2)))
        check_one_encoder(model, split)
        loop = TrainingLoop(model, split, loss, options, seed)
        take_facts(model, split)
        if model.is_reversible and isinstance(model.encoders, EncoderPair):
            model.encoders.share_head()
            model.linear[1] = model.linear[0]
        return loop.run(n_epochs, batch_size, progress)


def _checked_options(options: Any) -> TrainingOptions:
    """Options, those by default for None; a TypeError for anything else."""
    options = TrainingOptions() if options is None else options
    if not isinstance(options, TrainingOptions):
        raise TypeError(f"options must be TrainingOptions(...); got {options!r}.")
    return options


def _check_kinds(model: Any, loss: Any) -> None:
    """Raise a TypeError for a model or a loss of another kind."""
    if not isinstance(model, KoopmanLoRAModel):
        raise TypeError(
            f"model must be a KoopmanLoRAModel; got {type(model).__name__}. Encoders of your own go into "
            "KoopmanLoRAModel.from_encoders."
        )
    if loss is not None and (isinstance(loss, type) or not callable(loss)):
        raise TypeError(
            f"loss must be a module called as loss(f, g, svals), such as NestedLoRALoss(n_modes); got {loss}."
        )
    if loss is not None:
        check_loss(loss)


def _check_model(model: KoopmanLoRAModel, x: Tensor) -> None:
    """Raise a ValueError for a model that could not be trained on states such as `x`, or not be used afterwards."""
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model must be in single or double precision to be trained; got {model.dtype}. Use model.float(), and "
            "precision='bf16-mixed' to save time."
        )
    if any(tensor.is_inference() for tensor in itertools.chain(model.parameters(), model.buffers())):
        raise ValueError("model was made inside torch.inference_mode(), so that it cannot learn; make it outside.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model has no weights to train; set requires_grad of some of its parameters.")
    _check_encoders(model, x)


@torch.no_grad()
def _check_encoders(model: KoopmanLoRAModel, x: Tensor) -> None:
    wanted, was_training = model.n_modes - model.has_centering, model.training
    model.eval()
    try:
        for name, encode in (("encoder_f", model.encoders.f), ("encoder_g", model.encoders.g)):
            try:
                features = encode(model.prepare(x))
            except RuntimeError as error:  # of torch, about the shape or the precision of what it was given
                shape = ", ".join(map(str, model.state_shape))
                raise ValueError(f"{name} cannot take states (batch, {shape}) of {model.dtype}: {error}") from error
            found = tuple(getattr(features, "shape", ()))
            if found != (len(x), wanted):
                raise ValueError(f"{name} must give (batch, {wanted}); got {found} for a batch of {len(x)}.")
    finally:
        model.train(was_training)


def check_one_encoder(model: KoopmanLoRAModel, split: Split) -> None:
    """Raise a ValueError for two encoders where pairs count both ways: a symmetric operator has one space."""
    if split.pairs.is_reversible and not model.shared_encoder:
        raise ValueError(
            "pairs.both_ways() need one encoder for f and g; make the model with shared_encoder=True, or from_encoders "
            "with encoder_f alone."
        )


def take_facts(model: KoopmanLoRAModel, split: Split) -> None:
    """Let the model know the clock of the pairs that it is trained on, and whether they count both ways."""
    model.clock, model.is_reversible = split.pairs.clock, split.pairs.is_reversible


def check_refinable(model: KoopmanLoRAModel, split: Split) -> None:
    """Raise an error where `refine` would, before there is anything to lose.

    Raises
    ------
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If a last hidden layer is too narrow for n_modes.
    """
    some = split.pairs.read_x(slice(2))
    _check_encoders(model, some)
    head_matrices(model, some)


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
