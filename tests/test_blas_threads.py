"""Threads of BLAS: one among features of torch, as many as before afterwards, whoever leaves first."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

import koopman_lora as kl
from koopman_lora.blas_threads import MANY_COLUMNS, one_blas_thread, threads_for

POOLS = ThreadpoolController().select(internal_api=["openblas", "blis"])
pytestmark = pytest.mark.skipif(not len(POOLS), reason="NumPy's BLAS has the threads of torch here")


def numbers() -> list[int]:
    return [pool["num_threads"] for pool in POOLS.info()]


@pytest.fixture(autouse=True)
def two_threads():
    with POOLS.limit(limits=2):
        assert set(numbers()) == {2}
        yield
        assert set(numbers()) == {2}


def test_one_thread_inside_and_as_many_as_before_afterwards():
    with one_blas_thread():
        assert set(numbers()) == {1}
        with one_blas_thread():
            assert set(numbers()) == {1}
        assert set(numbers()) == {1}
    assert set(numbers()) == {2}


def test_after_an_error_as_many_as_before():
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        assert 1 / 0
    assert set(numbers()) == {2}


def test_whoever_leaves_first_does_not_take_the_others_number_away():
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(one_blas_thread())
    second.enter_context(one_blas_thread())
    first.close()
    assert set(numbers()) == {1}
    second.close()
    assert set(numbers()) == {2}


def test_wide_products_have_all_threads_also_inside():
    with threads_for(MANY_COLUMNS - 1):
        assert set(numbers()) == {1}
        with threads_for(MANY_COLUMNS):
            assert set(numbers()) == {2}
        assert set(numbers()) == {1}


def test_a_fit_has_one_thread_of_blas_and_leaves_them_as_they_were():
    seen = []

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x):
            seen.extend(numbers())
            return self.layer(torch.tanh(x))

    series = np.random.default_rng(0).normal(size=(300, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of noise there is nothing to learn
        kl.KoopmanLoRA(n_modes=3, encoder_f=Encoder(), shared_encoder=True, n_epochs=1).fit(series)
    assert set(seen) == {1}
    assert set(numbers()) == {2}
