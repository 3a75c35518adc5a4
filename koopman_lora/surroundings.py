"""What a fit needs around it and leaves as it was: torch's random numbers from a seed, and gradients."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Torch has one state of random numbers for all threads: whoever seeds it keeps the others out.
_SEEDING = threading.RLock()
# Layers of torch that draw random numbers; those with a `dropout` inside come beside them.
_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global random numbers from `seed`, for one thread at a time; the state before comes back at the end.

    For what cannot be given a generator of its own: layers draw their first weights, and dropout, from the global
    state. Two threads in this package wait for each other here, so that each gets the numbers of its own seed.

    Parameters
    ----------
    device : where numbers are drawn besides the CPU

    Examples
    --------
    >>> def draw():
    ...     with seeded(3):
    ...         return torch.rand(2)
    >>> torch.equal(draw(), draw())
    True
    """
    with _SEEDING:
        before = random_states(device)
        try:
            for generator in _generators(device):
                generator.manual_seed(int(seed))  # NumPy's, too, which torch refuses
            yield
        finally:
            set_random_states(before, device)


def random_states(device: torch.device | None = None) -> list[Tensor]:
    """States of torch's global random numbers, of the CPU and of a CUDA device.

    Examples
    --------
    >>> states = random_states()
    >>> first = torch.rand(2)
    >>> set_random_states(states)
    >>> torch.equal(torch.rand(2), first)
    True
    """
    return [generator.get_state() for generator in _generators(device)]


def set_random_states(states: Sequence[Tensor], device: torch.device | None = None) -> None:
    """Go on from `random_states`; of another kind of device those that both have."""
    for generator, state in zip(_generators(device), states, strict=False):
        generator.set_state(state)


def _generators(device: torch.device | None) -> list[torch.Generator]:
    return [torch.default_generator, *_generators_of(device)]


def _generators_of(device: torch.device | None) -> list[torch.Generator]:
    """Those of a CUDA device, and of no other: the random numbers there are not ours."""
    if device is None or device.type != "cuda":
        return []
    torch.cuda.init()
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.cuda.default_generators[index]]


def may_draw(module: Any) -> bool:
    """Whether a module may draw random numbers; of layers that are neither torch's nor ours nothing is known.

    Examples
    --------
    >>> may_draw(nn.Sequential(nn.Linear(2, 3), nn.Tanh())), may_draw(nn.Sequential(nn.Linear(2, 3), nn.Dropout()))
    (False, True)
    """
    if not isinstance(module, nn.Module):
        return True
    return any(_layer_may_draw(layer) for layer in module.modules())


def _layer_may_draw(layer: nn.Module) -> bool:
    origin = type(layer).__module__
    if origin.startswith("torch.nn.modules."):
        return isinstance(layer, _DRAWING) or bool(getattr(layer, "dropout", 0.0))
    return not origin.startswith("koopman_lora.")


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Gradients are taken, also inside `torch.no_grad()` or `torch.inference_mode()`.

    Examples
    --------
    >>> with torch.no_grad(), gradients():
    ...     torch.is_grad_enabled()
    True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
