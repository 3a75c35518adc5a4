import dataclasses
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.halves import draw_halves, twice
from koopman_lora.refits import turn_within
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.systems import NoisyRotation

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
DATA = SYSTEM.simulate(n_trajectories=2, n_steps=400, seed=0)
EXACT = SYSTEM.spectrum(lag=1, n_modes=3)
INTERVALS = ("canonical_singular_values", "eigenvalue_modulus", "eigenvalues", "timescales", "frequencies")


def make(**options):
    return KoopmanLoRA(3, **({"hidden_dims": (6,), "n_epochs": 2} | options))


@pytest.fixture(scope="module")
def fitted():
    return make().fit(DATA)


@pytest.fixture(scope="module")
def refits(fitted):
    return fitted.refits(8)


@pytest.fixture(scope="module")
def unrefined():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one epoch
        return make(refine=False, held_out=0.0, n_epochs=1).fit(DATA)


# --- halves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_every_second_half_is_what_its_predecessor_left_out(seed):
    halves = draw_halves(20, 9, seed)
    assert halves.sum(axis=1).tolist() == [10] * 9
    assert (halves[0:8:2] ^ halves[1:8:2]).all()
    assert len({half.tobytes() for half in halves}) == 9


@pytest.mark.parametrize("lag", [1, 5])
def test_a_pair_and_its_copy_are_on_one_side_of_a_split(lag):
    pairs = lagged_pairs(list(DATA.values), lag)
    block = block_numbers(pairs, 20)
    for seed, half in enumerate(draw_halves(int(block.max()) + 1, 4)):
        split = split_pairs(twice(pairs, half[block]), 0.2, seed=seed)
        sides = [
            {(t, f) for t, first in zip(p.trajectory, p.frame, strict=True) for f in (first, first + lag)}
            for p in split
        ]
        assert not sides[0] & sides[1]
        assert len(split.pairs) == 2 * half[block].sum()


def test_copies_count_like_any_other_pairs():
    pairs = lagged_pairs(list(DATA.values))
    assert twice(pairs, np.arange(len(pairs)) < 3).x[:, 0].tolist() == pairs.x[[0, 0, 1, 1, 2, 2], 0].tolist()


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_intervals_hold_the_estimate_and_the_exact_values(fitted, refits):
    intervals, spectrum = refits.intervals(), fitted.spectrum_
    for name in INTERVALS:
        lower, upper = intervals[f"{name}_interval"].values
        estimate = {
            "eigenvalue_modulus": abs(spectrum.eigenvalues).values,
            "eigenvalues": np.stack([spectrum.eigenvalues.values.real, spectrum.eigenvalues.values.imag]),
        }.get(name)
        estimate = spectrum[name].values if estimate is None else estimate
        assert (lower <= estimate + 1e-9).all(), name
        assert (estimate <= upper + 1e-9).all(), name
    lower, upper = intervals.canonical_singular_values_interval.values
    assert (lower <= EXACT.singular_values + 1e-9).all()
    assert (EXACT.singular_values <= upper + 1e-9).all()
    assert lower[0] == upper[0] == 1


@pytest.mark.slow
def test_a_higher_level_gives_wider_intervals(fitted, refits):
    low, high = (refits.intervals(level).canonical_singular_values_interval.values for level in (0.5, 0.99))
    assert (high[0] <= low[0]).all()
    assert (high[1] >= low[1]).all()
    assert np.ptp(high[:, 1]) > np.ptp(low[:, 1])


@pytest.mark.slow
def test_intervals_hold_what_the_fits_find_together_and_as_far_beyond(refits):
    spectrum = refits.estimate.spectrum
    sigma, eigenvalues = np.array([1, 0.6, 0.5]), spectrum.eigenvalues.values
    half = spectrum.assign(canonical_singular_values=("mode", sigma))
    everyone = half.assign(canonical_singular_values=("mode", np.cos(np.arccos(sigma) - [0, 0.2, 0.2])))
    everyone = everyone.assign(eigenvalues=("mode", eigenvalues - [0, 0.1, 0.1]))
    other = dataclasses.replace(refits)
    vars(other)["joint_spectra"] = [half, everyone]
    before, after = refits.intervals(), other.intervals()
    lower, upper = after.canonical_singular_values_interval.values
    beyond = np.cos(np.arccos(sigma) - [0, 0.4, 0.4])
    assert (lower <= np.minimum(beyond, spectrum.canonical_singular_values.values) + 1e-9).all()
    assert (upper >= np.maximum(beyond, spectrum.canonical_singular_values.values) - 1e-9).all()
    moved = (after - before).eigenvalues_interval.sel(part="real", bound="lower").values
    assert np.allclose(moved, [0, -0.2, -0.2], atol=0.05)  # but for the bias of the refits, which needs no room twice


@pytest.mark.slow
def test_the_estimator_hands_on_number_and_level(fitted, unrefined):
    intervals = unrefined.intervals(Bootstrap(level=0.8), refit=8)
    assert (intervals.attrs["refit"], intervals.attrs["level"]) == (8, 0.8)
    assert "whole procedure" in intervals.attrs["note"]
    assert "conditional" in fitted.intervals(Bootstrap(50)).attrs["note"]
    assert "refit" not in fitted.intervals(Bootstrap(50)).attrs


@pytest.mark.slow
def test_refits_are_fits_with_the_same_settings_and_seeds_that_follow(fitted, refits):
    block = block_numbers(fitted.pairs_, 20)
    half = draw_halves(int(block.max()) + 1, 8)[3]
    again = clone(fitted).set_params(seed=4).fit(twice(fitted.pairs_, half[block]))
    values = refits.analyses[3].spectrum.canonical_singular_values.values
    assert np.allclose(again.spectrum_.canonical_singular_values.values, values, atol=1e-5)  # of several threads
    assert refits.analyses[3].moments.n_pairs == 2 * half[block].sum()
    assert repr(refits) == "Refits(8 fits to halves of 798 pairs; " + repr(fitted.clock) + ")"


@pytest.mark.slow
def test_processes_change_nothing(unrefined):
    n_threads = torch.get_num_threads()
    one, two = (unrefined.intervals(refit=8, n_jobs=n_jobs) for n_jobs in (1, 2))
    for name in one:
        assert np.array_equal(one[name].values, two[name].values), name
    assert torch.get_num_threads() == n_threads


@pytest.mark.slow
def test_reversible_fits_have_real_eigenvalues_in_all_refits():
    chain = np.cumsum(np.random.default_rng(0).normal(size=400)) % 7.0
    estimator = make(reversible=True, n_epochs=1, refine=False, held_out=0.0)
    intervals = estimator.fit(chain).intervals(refit=8)
    assert (intervals.eigenvalues_interval.sel(part="imaginary").values == 0).all()


# --- bands -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_band_of_functions_holds_the_exact_subspace_and_is_blind_to_signs(fitted, refits):
    """Of the leading pair only the plane is known: the modes are one cluster, and turned before they are compared."""
    x = DATA.values[0][:50]
    band = refits.function_band(x)
    assert band.attrs["clusters"] == "[[1], [2, 3]]"
    lower, upper = band.functions_interval.values
    phi = fitted.singular_functions(x)
    assert np.array_equal(band.functions.values, phi)
    assert ((lower <= phi) & (phi <= upper)).all()
    assert np.median((upper - lower)[:, 1:]) < 1.0  # of functions of norm 1, where a wrong sign alone would give 8
    assert refits.function_band(x, side="right").attrs["side"] == "right"


def test_functions_are_turned_within_their_cluster_alone():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    functions = rng.normal(size=(500, 4))
    turned = np.hstack([functions[:, :1], functions[:, 1:3] @ Q, -functions[:, 3:]])
    clusters = [np.array([0]), np.array([1, 2]), np.array([3])]
    assert np.allclose(turned @ turn_within(turned.T @ functions, clusters), functions)


@pytest.mark.slow
def test_the_band_of_forecasts_is_about_the_forecast(fitted, refits):
    x = DATA.values[0][:5]
    for direction in ("forward", "backward"):
        band = refits.forecast(x, [1, 4], direction=direction)
        expected = fitted.forecast(x, [1, 4], direction=direction, bootstrap=Bootstrap(10))
        assert np.allclose(band.forecast.values, expected.forecast.values)
        assert np.array_equal(band.time.values, expected.time.values)
        lower, upper = band.forecast_interval.values
        assert ((lower < band.forecast.values) & (band.forecast.values < upper)).all()


# --- errors ------------------------------------------------------------------------------------------------------


def test_too_few_refits_or_processes_are_refused(fitted):
    with pytest.raises(ValueError, match="refit must be between 8, to tell the spread, and 10000; got 3"):
        fitted.intervals(refit=3)
    with pytest.raises(ValueError, match="n_refits must be between 8"):
        fitted.refits(7)
    with pytest.raises(ValueError, match="n_jobs must be a number of processes, or -1 for one per core; got 0"):
        fitted.refits(8, n_jobs=0)
    with pytest.raises(ValueError, match="pairs are too few to fit halves of them"):
        draw_halves(1, 8)


@pytest.mark.slow
def test_an_opened_analysis_says_that_the_estimator_is_needed(fitted, tmp_path):
    opened = open_analysis(fitted.save(tmp_path / "analysis"))
    with pytest.raises(ValueError, match=r"refit=20 needs the settings and the data of the fit.*KoopmanLoRA"):
        opened.intervals(refit=20)
