"""Several processes that work on one fit: sums over all of them, gradients through these, and whose part is whose.

Only what is done inside `together` is shared; everywhere else a process is alone, so that a question about a fit may be
asked in one of them. Collective calls must come in the same order in all processes.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn


class Processes(NamedTuple):
    """Processes that work together, and which of them this one is.

    Attributes
    ----------
    rank : of this process, from 0
    size : how many there are
    device : where tensors travel from
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes, prints and warns."""
        return self.rank == 0


_CURRENT: contextvars.ContextVar[Processes | None] = contextvars.ContextVar("processes", default=None)


def processes() -> Processes:
    """Those that work together here; a single one outside of `together`.

    Examples
    --------
    >>> processes().size
    1
    """
    return _CURRENT.get() or Processes()


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """All processes of the default group of `torch.distributed` work on one thing, whose tensors are on `device`."""
    token = _CURRENT.set(Processes(distributed.get_rank(), distributed.get_world_size(), device))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is done inside is done by this process for itself.

    Examples
    --------
    >>> with alone():
    ...     summed(torch.ones(2))
    tensor([1., 1.])
    """
    token = _CURRENT.set(Processes())
    try:
        yield
    finally:
        _CURRENT.reset(token)


def part_of(n: int) -> slice:
    """The part of this process of n things in a row; parts differ by one at most.

    Examples
    --------
    >>> part_of(10)
    slice(0, 10, None)
    """
    rank, size, _ = processes()
    return slice(rank * n // size, (rank + 1) * n // size)


# ------------------------------------------------------------------------------------------------------------- tensors


def summed(values: Tensor, is_last: bool = False) -> Tensor:
    """Sum over all processes of tensors of one shape, the same in each.

    The gradient is exact where every process computes the same loss of such sums and the gradients of the processes are
    averaged (`average_gradients`): backward, what all processes want of a sum is summed as well. So it holds for sums
    of sums, and for parameters that come in behind the sums, as singular values do.

    Parameters
    ----------
    is_last : all that comes behind is the same in all processes, so that they want the same, and need not ask
    """
    return values if processes().size == 1 else _Summed.apply(values, is_last)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, is_last: bool) -> Tensor:
        ctx.is_last = is_last
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * distributed.get_world_size() if ctx.is_last else _all_reduced(gradient), None


def _all_reduced(values: Tensor) -> Tensor:
    total = values.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def mean_of_all(means: Sequence[Tensor], totals: Sequence[Tensor | int]) -> tuple[list[Tensor], list[Any]]:
    """Means over the pairs of all processes, and their totals, from those of this process, in one message.

    For what ends in a loss that is made of such means alone, see `summed`.

    Parameters
    ----------
    means : over the pairs of this process
    totals : of the weights with which each of them was taken, such as the number of pairs

    Examples
    --------
    >>> mean_of_all([torch.tensor(2.0)], [8])
    ([tensor(2.)], [8])
    """
    if processes().size == 1:
        return list(means), list(totals)
    dtype = functools.reduce(torch.promote_types, (mean.dtype for mean in means))
    own = [t.to(dtype) if isinstance(t, Tensor) else means[0].new_full((), t, dtype=dtype) for t in totals]
    flat = [(mean * total).reshape(-1) for mean, total in zip(means, own, strict=True)]
    everything = summed(torch.cat([*flat, torch.stack(own)]), is_last=True)
    *sums, found = everything.split([*(len(part) for part in flat), len(own)])
    both = zip(means, sums, found.unbind(), strict=True)
    return [_as(mean, part / total) for mean, part, total in both], list(found.real.unbind())


def _as(like: Tensor, values: Tensor) -> Tensor:
    """Values of the shape of another tensor, real where that is."""
    return (values if like.is_complex() else values.real).view(like.shape)


def all_rows(values: Tensor, n_rows: int, rows: slice, is_last: bool = False) -> Tensor:
    """Rows of all processes below one another, (n_rows, ...), from those of this one; gradients as of `summed`.

    Parameters
    ----------
    values : of this process, (stop - start, ...)
    rows : their places
    is_last : see `summed`

    Examples
    --------
    >>> all_rows(torch.ones(2, 1), 2, part_of(2)).shape
    torch.Size([2, 1])
    """
    if processes().size == 1:
        return values
    before, after = (values.new_zeros(n, *values.shape[1:]) for n in (rows.start, n_rows - rows.stop))
    return summed(torch.cat([before, values, after]), is_last)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over all processes, in one message per precision."""
    if processes().size == 1:
        return
    for gradients in _by_dtype(p.grad for p in parameters if p.grad is not None):
        mean = _all_reduced(torch.cat([g.reshape(-1) for g in gradients])).div_(processes().size)
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def share_state(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first."""
    if processes().size == 1:
        return
    for tensors in _by_dtype(itertools.chain(module.parameters(), module.buffers())):
        flat = torch.cat([t.reshape(-1) for t in tensors])
        distributed.broadcast(flat, 0)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _by_dtype(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return groups.values()


# ------------------------------------------------------------------------------------------------------- plain objects


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order; small ones, such as moments.

    Examples
    --------
    >>> gathered("mine")
    ['mine']
    """
    size = processes().size
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    distributed.all_gather_object(values, value)
    return values


def made_by_all(make: Callable[[], Any]) -> list[Any]:
    """What each process makes, in their order; an error of one is raised in all, so that none waits for it.

    Examples
    --------
    >>> made_by_all(lambda: 3)
    [3]
    """
    return [make()] if processes().size == 1 else _values(gathered(_outcome(make)))


def made_by_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, or its error, in all of them.

    Examples
    --------
    >>> made_by_first(lambda: 3)
    3
    """
    rank, size, device = processes()
    if size == 1:
        return make()
    outcomes = [_outcome(make) if rank == 0 else None]
    distributed.broadcast_object_list(outcomes, 0, device=device)
    return _values(outcomes)[0]


def _outcome(make: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return make(), None
    except Exception as error:
        return None, error


def _values(outcomes: Iterable[Any]) -> list[Any]:
    values = []
    for value, error in outcomes:
        if error is not None:
            raise error
        values.append(value)
    return values


def agreed(value: Any) -> Any:
    """The value of the first process, in all of them.

    Examples
    --------
    >>> agreed(3)
    3
    """
    return made_by_first(lambda: value)
