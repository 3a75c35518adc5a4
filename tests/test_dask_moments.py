"""Moments on Dask are those of `estimate_moments`, whatever the parts and the workers."""

import dask.array as da
import numpy as np
import pytest
from small_pairs import PAIRS, SERIES, complex_f, f, g, h

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.dask_moments import estimate_moments_on_dask
from koopman_lora.data.lazy_states import LazyStates
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.scores import vamp_scores
from koopman_lora.spectrum import koopman_spectrum


def assert_equal(found, plain):
    """The same sums in the same blocks about the same shifts, with the same phases."""
    assert found.names == plain.names
    assert found.clock == plain.clock
    assert found.observable_names == plain.observable_names
    assert found.is_reversible == plain.is_reversible
    assert np.array_equal(found.block_counts, plain.block_counts)
    for name, sums in plain.block_sums.items():
        assert np.allclose(found.block_sums[name], sums, rtol=1e-12, atol=1e-12 * np.abs(sums).max()), name
    assert np.allclose(found.orientation_sums, plain.orientation_sums, rtol=1e-12, atol=1e-12)
    for side, shift in plain.shifts.items():
        assert np.allclose(found.shifts[side], shift, rtol=1e-12), side


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=False, **options) as local, distributed.Client(local) as client:
        yield client


@pytest.mark.parametrize("part_size", [7, 50, 10_000])
@pytest.mark.parametrize("n_blocks", [1, 4, 300])
def test_moments_of_threads_equal_plain_ones(part_size, n_blocks):
    plain = estimate_moments(f, g, PAIRS, observables=h, n_blocks=n_blocks)
    found = estimate_moments_on_dask(f, g, PAIRS, observables=h, n_blocks=n_blocks, part_size=part_size)
    assert_equal(found, plain)


WEIGHTED = lagged_pairs(SERIES, 2, weights=[np.arange(len(series)) // 40 for series in SERIES])


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS.both_ways(), WEIGHTED], ids=["plain", "both ways", "weighted"])
def test_moments_of_a_cluster_equal_plain_ones(cluster, pairs):
    plain = estimate_moments(complex_f, g, pairs, n_blocks=5)
    assert_equal(estimate_moments_on_dask(complex_f, g, pairs, n_blocks=5, part_size=20), plain)


def test_workers_read_what_is_not_in_memory(cluster):
    """An array of Dask, in chunks that no part of the pairs follows."""
    x = np.random.default_rng(2).normal(size=(600, 2))
    pairs = lagged_pairs(da.from_array(x, chunks=(70, 1)), lag=3)
    assert isinstance(pairs.states, LazyStates)
    plain = estimate_moments(f, g, lagged_pairs(x, lag=3), observables=flat_state)
    assert_equal(estimate_moments_on_dask(f, g, pairs, observables=flat_state, part_size=100), plain)


def test_an_offset_of_the_data_costs_no_digits(cluster):
    x = 1e6 + np.random.default_rng(0).normal(size=(500, 2)).cumsum(0)
    pairs = lagged_pairs(x)
    plain = estimate_moments(flat_state, flat_state, pairs, observables=flat_state)
    found = estimate_moments_on_dask(flat_state, flat_state, pairs, observables=flat_state, part_size=33)
    assert_equal(found, plain)


def test_spectrum_scores_and_intervals_follow(cluster):
    plain = estimate_moments(f, f, PAIRS)
    found = estimate_moments_on_dask(f, f, PAIRS, part_size=40)
    for question in (koopman_spectrum, bootstrap_intervals):
        answer, expected = question(found), question(plain)
        for name, values in expected.data_vars.items():
            assert np.allclose(answer[name], values, rtol=1e-8, atol=1e-9, equal_nan=True), (question.__name__, name)
    assert np.allclose(vamp_scores(found, found), vamp_scores(plain, plain), rtol=1e-10)


def test_what_cannot_be_summed_is_refused(cluster):
    with pytest.raises(ValueError, match="f gave NaN or inf features"):
        estimate_moments_on_dask(lambda x: 1 / (x - x[-1]), g, PAIRS, part_size=40)
    with pytest.raises(ValueError, match="part_size must be positive; got 0"):
        estimate_moments_on_dask(f, g, PAIRS, part_size=0)
    with pytest.raises(ValueError, match="n_blocks must be positive; got -1"):
        estimate_moments_on_dask(f, g, PAIRS, n_blocks=-1)
    with pytest.raises(ValueError, match="names must be among"):
        estimate_moments_on_dask(f, g, PAIRS, names=["M"])
    with pytest.raises(ValueError, match="pairs are empty"):
        estimate_moments_on_dask(f, g, PAIRS.select(np.array([], dtype=int)))


def test_without_dask_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask", None)
    with pytest.raises(ImportError, match=r"koopman-lora\[scale\]"):
        estimate_moments_on_dask(f, g, PAIRS)


@pytest.mark.slow
def test_two_worker_processes_send_back_sums_alone():
    distributed = pytest.importorskip("distributed")
    pairs = lagged_pairs(np.random.default_rng(1).normal(size=(2000, 3)))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as local, distributed.Client(local) as client:
        found = estimate_moments_on_dask(flat_state, lambda x: x**2, pairs, part_size=500)
        assert len(client.scheduler_info()["workers"]) == 2
    assert_equal(found, estimate_moments(flat_state, lambda x: x**2, pairs))
