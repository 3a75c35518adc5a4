"""The methods: each a function (pairs, n_modes, seed, settings) -> feature maps of states, and its settings.

All learn from the same pairs. Networks have the widths of this package's default, two of them as it has, where the
method can have two; coordinates are standardised for all peers, as their documentation advises. Feature maps take and
give numpy arrays; what is measured is the span of theirs, so nothing is whitened afterwards for anybody.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from _shared import BareNet, plain_loss
from torch import nn

import koopman_lora as kl
from bench.systems import FeatureMaps, Function

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method and what it is tried with.

    Attributes
    ----------
    label : in tables and figures
    fit : (pairs, n_modes, seed, **settings) -> feature maps
    needs : package it comes from
    rows : settings as documented, a row of the table each
    candidates : among which the best is looked for; none for this package's own
    ladder : settings of growing cost, for the curve of the figure
    """

    label: str
    fit: Callable[..., FeatureMaps]
    needs: str = "torch"
    rows: tuple[Settings, ...] = ({},)
    candidates: tuple[Settings, ...] = ()
    ladder: tuple[Settings, ...] = ()


def grid(**choices: tuple[Any, ...]) -> tuple[Settings, ...]:
    """All combinations of settings.

    Examples
    --------
    >>> grid(a=(1, 2), b=(3,))
    ({'a': 1, 'b': 3}, {'a': 2, 'b': 3})
    """
    rows: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        rows = [{**row, name: value} for row in rows for value in values]
    return tuple(rows)


class Batches:
    """Shuffled batches of pairs, as a DataLoader gives them, without its cost of collating single pairs."""

    def __init__(self, x: np.ndarray, x_next: np.ndarray, size: int) -> None:
        self.x, self.x_next = (torch.from_numpy(v).float() for v in (x, x_next))
        self.size = min(size, len(x))

    def epochs(self, epochs: int, steps: int) -> int:
        """Number of epochs: as given, or as many as make `steps` steps."""
        return epochs or -(-steps // (len(self.x) // self.size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        whole = len(self.x) // self.size * self.size  # a last small batch would whiten noise
        for rows in torch.randperm(len(self.x))[:whole].split(self.size):
            yield self.x[rows], self.x_next[rows]


def standardised(pairs: kl.LaggedPairs) -> tuple[Function, np.ndarray, np.ndarray]:
    """A function that gives coordinates mean 0 and variance 1, and the pairs after it."""
    mean, std = pairs.x.numpy().mean(0), pairs.x.numpy().std(0)

    def scale(x: np.ndarray) -> np.ndarray:
        return (x - mean) / std

    return scale, scale(pairs.x.numpy()), scale(pairs.x_next.numpy())


def with_constant(function: Function) -> Function:
    """The constant beside a function's values."""
    return lambda x: np.hstack([np.ones((len(x), 1)), function(x)])


def of_network(net: nn.Module, scale: Function) -> Function:
    """A trained network as a function of numpy arrays."""

    def values(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(scale(x)).float()).double().numpy()

    return values


def ours(pairs: kl.LaggedPairs, k: int, seed: int, **settings: Any) -> FeatureMaps:
    """The default fit of this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rare transitions, say
        estimator = kl.KoopmanLoRA(n_modes=k, seed=seed, **settings).fit(pairs)
    return tuple(lambda x, side=side: estimator.features(x, side) for side in ("left", "right"))


def bare_loop(pairs: kl.LaggedPairs, k: int, seed: int, steps: int) -> FeatureMaps:
    """A plain PyTorch loop with the plain LoRA loss: what a user would write who read the paper."""
    torch.manual_seed(seed)
    scale, x, x_next = standardised(pairs)
    batches, net = Batches(x, x_next, 256), BareNet(k, x.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.0)
    endless = itertools.chain.from_iterable(itertools.repeat(batches))
    for a, b in itertools.islice(endless, steps):
        optimizer.zero_grad()
        plain_loss(net.f(a), net.g(b)).backward()
        optimizer.step()
    return of_network(net.f, scale), of_network(net.g, scale)


def vampnet(
    pairs: kl.LaggedPairs, k: int, seed: int, epochs: int = 0, steps: int = 0, rate: float = 5e-4, batch: int = 256
) -> FeatureMaps:
    """VAMPNet of deeptime with two lobes; its score is of centred features, so the constant stands beside them."""
    from deeptime.decomposition.deep import VAMPNet

    torch.manual_seed(seed)
    scale, x, x_next = standardised(pairs)
    net, batches = BareNet(k - 1, x.shape[1]), Batches(x, x_next, batch)
    VAMPNet(net.f, net.g, learning_rate=rate).fit(batches, n_epochs=batches.epochs(epochs, steps))
    return tuple(with_constant(of_network(lobe, scale)) for lobe in (net.f, net.g))


def contrastive(
    pairs: kl.LaggedPairs, k: int, seed: int, epochs: int = 0, steps: int = 0, rate: float = 1e-3, batch: int = 256
) -> FeatureMaps:
    """Spectral contrastive loss of kooplearn, in the loop that its examples show."""
    from kooplearn.torch.nn import SpectralContrastiveLoss

    torch.manual_seed(seed)
    scale, x, x_next = standardised(pairs)
    net, loss, batches = BareNet(k, x.shape[1]), SpectralContrastiveLoss(), Batches(x, x_next, batch)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(batches.epochs(epochs, steps)):
        for a, b in batches:
            optimizer.zero_grad()
            loss(net.f(a), net.g(b)).backward()
            optimizer.step()
    return of_network(net.f, scale), of_network(net.g, scale)


def vamp(pairs: kl.LaggedPairs, k: int, seed: int, lift: Function | None = None, cut: float = 1e-6) -> FeatureMaps:
    """VAMP of deeptime, linear in the coordinates or in what `lift` makes of them; exact, so the seed is not used."""
    from deeptime.decomposition import VAMP

    scale, x, x_next = standardised(pairs)
    lift = (lambda z: z) if lift is None else lift
    data = lift(x), lift(x_next)
    model = VAMP(dim=min(k - 1, data[0].shape[1]), epsilon=cut).fit_from_timeseries(data).fetch_model()
    return (
        with_constant(lambda x: model.forward(lift(scale(x)), propagate=False)),
        with_constant(lambda x: model.backward(lift(scale(x)), propagate=False)),
    )


def width(z: np.ndarray, seed: int) -> float:
    """Coefficient of a Gaussian kernel as wide as the median distance."""
    from sklearn.metrics import pairwise_distances

    some = z[np.random.default_rng(seed).choice(len(z), min(500, len(z)), replace=False)]
    return 1 / np.median(pairwise_distances(some) ** 2)


def nystroem_vamp(
    pairs: kl.LaggedPairs, k: int, seed: int, centres: int = 300, narrower: float = 1.0, cut: float = 1e-6
) -> FeatureMaps:
    """Nystroem features of scikit-learn, then deeptime's VAMP: what a practitioner tries first."""
    from sklearn.kernel_approximation import Nystroem

    _, x, _ = standardised(pairs)
    lift = Nystroem(gamma=narrower * width(x, seed), n_components=min(centres, len(x) // 4), random_state=seed).fit(x)
    return vamp(pairs, k, seed, lift.transform, cut)


def frames_of(pairs: kl.LaggedPairs) -> np.ndarray:
    """The trajectories behind all pairs, end to end, as a method wants them that takes one only."""
    x, x_next, lag, parts = pairs.x.numpy(), pairs.x_next.numpy(), pairs.clock.lag, []
    for number in np.unique(pairs.trajectory):
        rows = pairs.trajectory == number
        parts += [x[rows], x_next[rows][-lag:]]
    return np.concatenate(parts)


def kernel_ridge(
    pairs: kl.LaggedPairs,
    k: int,
    seed: int,
    centres: float = 0.1,
    narrower: float | None = None,
) -> FeatureMaps:
    """NystroemKernelRidge of kooplearn with a Gaussian kernel (its default is linear).

    A tenth of the frames are centres, its default, but 2,000 at most: more take minutes. Its `alpha` changes nothing in
    version 2.0.3, so it is left alone. It predicts forward; functions of x' are those of a second model that predicts
    backward: better than the first one's own, which the kernel has smoothed.
    """
    scale, x, _ = standardised(pairs)
    options = {
        "lag_time": pairs.clock.lag,
        "kernel": "rbf",
        "gamma": None if narrower is None else narrower * width(x, seed),
        "n_centers": min(centres, 2000 / len(x)) if centres < 1 else centres,
        "random_state": seed,
    }
    frames = scale(frames_of(pairs))
    sides = [_kernel_functions(some, k, options) for some in (frames, frames[::-1])]
    return tuple(lambda x, side=side: side(scale(x)) for side in sides)


def _kernel_functions(frames: np.ndarray, k: int, options: Settings) -> Function:
    """The functions that a kernel model writes its predictions in."""
    from kooplearn.kernel import NystroemKernelRidge
    from sklearn.metrics.pairwise import rbf_kernel

    model = NystroemKernelRidge(k, **options).fit(frames)
    centres = model.X_fit_[: -options["lag_time"]][model.nys_centers_idxs_]
    return lambda z: rbf_kernel(z, centres, model.gamma_) @ model.U_


def deeptica(
    pairs: kl.LaggedPairs, k: int, seed: int, steps: int = 200, rate: float = 1e-3, batch: int = 0
) -> FeatureMaps:
    """DeepTICA of mlcolvar, one network for both sides: full batches and a fifth held out, as are its defaults."""
    import lightning
    from mlcolvar.cvs import DeepTICA
    from mlcolvar.data import DictDataset, DictModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(seed)
    scale, x, x_next = standardised(pairs)
    one = torch.ones(len(x))
    a, b = (torch.from_numpy(v).float() for v in (x, x_next))
    data = DictModule(
        DictDataset({"data": a, "data_lag": b, "weights": one, "weights_lag": one}), batch_size=[batch, 0]
    )
    model = DeepTICA([x.shape[1], 64, 128, 64, k - 1], options={"optimizer": {"lr": rate}})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    stop = lightning.pytorch.callbacks.EarlyStopping("valid_loss", min_delta=1e-4, patience=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=-1, max_steps=steps, accelerator="cpu", callbacks=[stop], enable_model_summary=False, **quiet
        )
        trainer.fit(model, data)
    model.eval()
    function = with_constant(of_network(model, scale))
    return function, function


METHODS = {
    "ours": Method("koopman_lora", ours, ladder=({"n_epochs": 1}, {"n_epochs": 2}, {"n_epochs": 4})),
    "bare": Method(
        "bare loop", bare_loop, rows=({"steps": 950},), ladder=({"steps": 100}, {"steps": 300}, {"steps": 3000})
    ),
    "vampnet": Method(
        "VAMPNet",
        vampnet,
        "deeptime",
        rows=({"epochs": 4}, {"epochs": 20}),
        candidates=(*grid(steps=(600, 3000), rate=(5e-4, 2e-3, 5e-3)), {"steps": 1500, "rate": 2e-3, "batch": 1024}),
        ladder=({"epochs": 1},),
    ),
    "contrastive": Method(
        "contrastive loss",
        contrastive,
        "kooplearn",
        rows=({"epochs": 20},),
        candidates=(*grid(steps=(600, 3000), rate=(1e-3, 3e-3, 1e-2)), {"steps": 1500, "rate": 3e-3, "batch": 1024}),
        ladder=({"epochs": 2}, {"epochs": 6}),
    ),
    "ridge": Method(
        "NystroemKernelRidge",
        kernel_ridge,
        "kooplearn",
        candidates=grid(centres=(100, 250, 1000), narrower=(1.0, 4.0, 16.0, 64.0)),
        ladder=({"centres": 30}, {"centres": 100}, {"centres": 250}),
    ),
    "nystroem": Method(
        "Nystroem + VAMP",
        nystroem_vamp,
        "deeptime",
        candidates=grid(centres=(300, 1000), narrower=(1.0, 4.0, 16.0, 64.0), cut=(1e-8, 1e-6, 1e-4)),
        ladder=({"centres": 30}, {"centres": 100}, {"centres": 1000}),
    ),
    "linear": Method("linear VAMP", vamp, "deeptime"),
    "deeptica": Method(
        "DeepTICA",
        deeptica,
        "mlcolvar",
        candidates=(
            *grid(steps=(600, 3000), rate=(1e-3, 5e-3), batch=(256,)),
            {"steps": 1500, "rate": 1e-3, "batch": 1024},
        ),
        ladder=({"steps": 30}, {"steps": 100}),
    ),
}
