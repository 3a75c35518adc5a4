"""Threads of NumPy's and SciPy's products, which must not stand in the way of torch's.

For some ten milliseconds after a product OpenBLAS keeps its threads busy waiting for the next one, on the cores that
torch's threads need for the next features. On two cores a pass over pairs, which alternates between the two, takes up
to five times as long so as with one thread of BLAS.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

# Columns of tables whose products gain more by several threads than these cost. Measured on two cores with networks of
# (64, 128, 64) and (256, 256): below 512 one thread is faster, at 512 as fast, from 1,024 on slower by up to a third.
MANY_COLUMNS = 1024


class _OneThread:
    """One thread for BLAS while anybody holds it and nobody lifts it; the number from before afterwards.

    Threads of a user's program may come and go in any order: a number that each kept for itself could be another's 1.
    """

    def __init__(self) -> None:
        self.lock, self.limit = threading.Lock(), contextlib.ExitStack()
        self.n_holding = self.n_lifting = 0
        self.is_limited = False

    @contextlib.contextmanager
    def counted(self, holding: int = 0, lifting: int = 0) -> Iterator[None]:
        self._count(holding, lifting)
        try:
            yield
        finally:
            self._count(-holding, -lifting)

    def _count(self, holding: int, lifting: int) -> None:
        with self.lock:
            self.n_holding += holding
            self.n_lifting += lifting
            wanted = self.n_holding > 0 and self.n_lifting == 0
            if wanted and not self.is_limited:
                self.limit.enter_context(_pools_apart().limit(limits=1))
            elif self.is_limited and not wanted:
                self.limit.close()
            self.is_limited = wanted


@functools.cache
def _pools_apart() -> ThreadpoolController:
    """BLAS with threads of its own; MKL has those of torch."""
    return ThreadpoolController().select(internal_api=["openblas", "blis"])


_ONE_THREAD = _OneThread()


def one_blas_thread() -> AbstractContextManager[None]:
    """One thread for what BLAS does inside, among features that torch evaluates.

    Examples
    --------
    >>> with one_blas_thread():
    ...     product = np.ones((2, 80)).T @ np.ones((2, 80))
    """
    return _ONE_THREAD.counted(holding=1)


def threads_for(n_columns: int) -> AbstractContextManager[None]:
    """One thread for products of tables of few columns, all there are for those of many, also within one thread.

    Examples
    --------
    >>> with one_blas_thread(), threads_for(4000):
    ...     product = np.ones((2, 4000)) @ np.ones((4000, 2))
    """
    return one_blas_thread() if n_columns < MANY_COLUMNS else _ONE_THREAD.counted(lifting=1)
