import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.intervals import (
    Reach,
    bootstrap_intervals,
    eigenvalue_intervals,
    in_long_blocks,
    match_eigenvalues,
    modulus_interval,
)
from koopman_lora.moments import CROSS
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation

CHAIN = FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)
INTERVALS = (
    "canonical_singular_values",
    "singular_values",
    "eigenvalue_modulus",
    "eigenvalues",
    "timescales",
    "frequencies",
)


def bounds_of(intervals, name):
    """Bounds (2, n_modes) by name; `eigenvalue_real` and `eigenvalue_imag` are the two parts of one variable."""
    part = {"eigenvalue_real": "real", "eigenvalue_imag": "imaginary"}.get(name)
    if part is None:
        return intervals[f"{name}_interval"].values
    return intervals["eigenvalues_interval"].sel(part=part).values


def exact_moments(system, n_modes, n_pairs, seed=0, n_blocks=64):
    reference = system.spectrum(lag=1, n_modes=n_modes)
    pairs = lagged_pairs(system.simulate(n_trajectories=2, n_steps=n_pairs // 2 + 1, seed=seed))
    maps = (lambda x: reference.left(x.numpy()), lambda x: reference.right(x.numpy()))
    return reference, estimate_moments(*maps, pairs, n_blocks=n_blocks)


def test_frequencies_do_not_jump_at_the_end_of_the_branch():
    """An eigenvalue near -1 turns by half a revolution a lag, to one side or the other."""
    estimate = 0.9 * np.exp(1j * np.array([3.1]))
    drawn = 0.9 * np.exp(1j * np.array([[3.0], [3.2], [3.1]]))
    low, high = eigenvalue_intervals(estimate, drawn, Reach(2.0, 1.0, np.ones(1)), Clock())["frequencies_interval"][1][
        :, 0
    ]
    assert 0.4 < low < 3.1 / (2 * np.pi) < high < 0.6


def test_a_timescale_has_no_upper_bound_where_the_modulus_may_reach_1():
    estimate, drawn = np.cos([0.2]), np.cos([[0.1], [0.3]])
    found = eigenvalue_intervals(estimate, drawn, Reach(2.5, 1.0, np.ones(1)), Clock(2))
    assert np.allclose(found["eigenvalue_modulus_interval"][1], [[np.cos(0.45)], [1.0]])
    assert np.allclose(found["timescales_interval"][1], [[-2 / np.log(np.cos(0.45))], [np.inf]])


def test_a_jump_that_was_never_seen_has_a_rate_that_the_data_bound():
    """Two sets, no transition: sigma_2 had the interval [1, 1], and its timescale [inf, inf]."""
    x = torch.eye(2, dtype=torch.float64)[[0] * 300 + [1] * 300]
    moments = estimate_moments(lambda s: s, lambda s: s, (x, x))
    intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(100))
    lower, upper = intervals.canonical_singular_values_interval.values
    assert upper[1] == 1
    assert lower[1] == pytest.approx(np.exp(-4 * 3 / 600), abs=1e-4)  # 3 events at most, in each set of 300 pairs
    low, high = intervals.timescales_interval.values[:, 1]
    assert (low, high) == (pytest.approx(600 / 12, rel=0.01), np.inf)
    assert (lower[0], upper[0]) == (1, 1)


def test_the_spread_about_a_small_value_is_not_folded_at_0():
    """Half of the resamples of a sigma near 0 are those of the turned function: folding them halves the interval."""
    drawn = np.random.default_rng(0).normal(0.02, 0.05, size=(2000, 1))
    upper = modulus_interval(np.array([0.02]), drawn, 2.0, 1.0)[1, 0]
    folded = modulus_interval(np.array([0.02]), np.abs(drawn), 2.0, 1.0)[1, 0]
    assert upper == pytest.approx(0.12, abs=0.01)
    assert folded < 0.09


def test_a_bound_beyond_0_is_a_modulus_again():
    """The mean of the resamples is on the other side of 0: the value may be as far from 0 there."""
    low, high = modulus_interval(np.array([0.02]), np.array([[-0.1], [-0.2], [-0.15]]), 2.0, 1.0)[:, 0]
    assert low == 0
    assert high > 0.2


def pair(half_distance):
    return 0.3 + np.array([1, -1]) * np.sqrt(half_distance + 0j)


def test_two_eigenvalues_that_chance_drove_apart_have_intervals_that_hold_their_mean():
    """Squared half-distance .01 with a standard error of .006: a double eigenvalue of .3 cannot be excluded."""
    drawn = np.stack([pair(d) for d in np.random.default_rng(0).normal(0.01, 0.006, size=400)])
    mild, bad = (
        eigenvalue_intervals(pair(0.01), drawn, Reach(2.0, 1.0, np.full(2, condition)), Clock())
        for condition in (1.0, 9.0)
    )
    name = "eigenvalue_modulus_interval"
    assert (bad[name][1][0] < 0.3 + 1e-9).all()
    assert (bad[name][1][1] > 0.3 - 1e-9).all()
    assert mild[name][1][0, 0] > 0.3  # that of .4; of a normal operator they move apart as easily as together
    low, high = bad["eigenvalues_interval"][1][:, 0]
    assert (low < 0.3 + 1e-9).all()
    assert (high > 0.3 - 1e-9).all()


def test_eigenvalues_that_are_clearly_two_keep_their_own_intervals():
    drawn = np.stack([pair(d) for d in np.random.default_rng(0).normal(0.01, 0.001, size=400)])
    mild, bad = (
        eigenvalue_intervals(pair(0.01), drawn, Reach(2.0, 1.0, np.full(2, condition)), Clock())
        for condition in (1.0, 9.0)
    )
    for name in mild:
        np.testing.assert_array_equal(mild[name][1], bad[name][1])


def test_blocks_are_merged_until_they_are_longer_than_the_memory():
    for stay, wanted in ((0.9, 64), (0.99, 40), (0.999, 16)):
        chain = FiniteMarkovChain([[stay, 1 - stay], [1 - stay, stay]])
        _, moments = exact_moments(chain, 2, 4000, n_blocks=64)
        found = in_long_blocks(moments)
        memory = -1 / np.log(koopman_spectrum(moments).canonical_singular_values.values[1])
        assert found.n_pairs == moments.n_pairs
        assert found.n_blocks == np.clip(int(4000 / (2 * memory)), 16, 64)
        assert found.n_blocks == pytest.approx(wanted, rel=0.4)  # the memory is estimated, from some 40 jumps
        np.testing.assert_allclose(found.T_fg, moments.T_fg)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode", "n_frames"), [("small sigma", 6, 500), ("metastable", 2, 3000)])
def test_intervals_of_small_and_of_slow_sigma_cover(kind, mode, n_frames):
    """Measured .975 and .967; .86 and .96 while spreads were folded at 0 and blocks shorter than the memory.

    Of 120 draws of a coverage of .96, less than .9 come up by chance once in 1,000.
    """
    if kind == "small sigma":
        flux = np.random.default_rng(105).gamma(0.6, size=(6, 6))
        P = flux + flux.T + 0.02
        P /= P.sum(axis=1, keepdims=True)
    else:
        P = np.diag([0.04, 0.013, 0.03], 1) + np.diag([0.03, 0.015, 0.039], -1)
        P += np.diag(1 - P.sum(axis=1))
    chain, covered = FiniteMarkovChain(P), []
    truth = chain.spectrum(1, mode).singular_values[mode - 1]
    for seed in range(120):
        moments = estimate_moments(lambda s: s, lambda s: s, lagged_pairs(chain.simulate(n_steps=n_frames, seed=seed)))
        intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(100))
        low, high = intervals.canonical_singular_values_interval.values[:, mode - 1]
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("P", "n_frames"),
    [([[0.995, 0.005], [0.005, 0.995]], 1000), ([[0.98, 0.02], [0.01, 0.99]], 500)],
    ids=["1000 frames", "500 frames"],
)
def test_intervals_of_few_transitions_are_neither_empty_nor_everything(P, n_frames):
    """Measured over 100 draws with at least 5 transitions: coverage .97 to .98, median width .9 to 1.0 of the ideal."""
    chain, covered, widths, estimates = FiniteMarkovChain(P), [], [], []
    truth = chain.spectrum(1, 2).singular_values[1]
    for seed in range(80):
        data = chain.simulate(n_steps=n_frames, seed=seed)[0]
        if (np.diff(data.values.argmax(axis=1)) != 0).sum() < 5:
            continue
        moments = estimate_moments(lambda s: s, lambda s: s, lagged_pairs(data))
        low, high = bootstrap_intervals(moments, bootstrap=Bootstrap(100)).canonical_singular_values_interval.values[
            :, 1
        ]
        covered.append(low <= truth <= high)
        widths.append(high - low)
        estimates.append(koopman_spectrum(moments).canonical_singular_values.values[1])
    ideal = np.subtract(*np.quantile(estimates, [0.975, 0.025]))
    assert np.mean(covered) >= 0.85  # of some 45 draws: fails by chance less than once in 1,000
    assert 0.5 < np.median(widths) / ideal < 2


def test_the_constant_mode_has_a_point_interval_and_no_finite_timescale():
    _, moments = exact_moments(CHAIN, 4, 4000)
    intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(100))
    for name in ("canonical_singular_values", "eigenvalue_modulus", "eigenvalue_real"):
        assert np.allclose(bounds_of(intervals, name)[:, 0], 1, atol=1e-9), name
    assert np.allclose(bounds_of(intervals, "eigenvalue_imag")[:, 0], 0, atol=1e-9)
    assert np.isinf(bounds_of(intervals, "timescales")[:, 0]).all()


def test_intervals_are_named_after_their_value_with_the_bound_first():
    _, moments = exact_moments(CHAIN, 4, 1000)
    intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(20, 0.9, 3))
    assert set(intervals) == {f"{name}_interval" for name in INTERVALS} | {"canonical_standard_error"}
    for name in INTERVALS:
        wanted = ("bound", "part", "mode") if name == "eigenvalues" else ("bound", "mode")
        assert intervals[f"{name}_interval"].dims == wanted, name
    assert intervals.canonical_standard_error.dims == ("mode",)
    assert intervals.bound.values.tolist() == ["lower", "upper"]
    assert intervals.part.values.tolist() == ["real", "imaginary"]
    assert intervals.mode.values.tolist() == [1, 2, 3, 4]
    assert (intervals.n_resamples, intervals.level, intervals.seed) == (20, 0.9, 3)
    assert intervals.n_blocks == moments.n_blocks


def test_intervals_hold_the_estimate_and_stay_where_the_values_can_be():
    _, moments = exact_moments(CHAIN, 4, 600)
    spectrum, intervals = koopman_spectrum(moments), bootstrap_intervals(moments, bootstrap=Bootstrap(200))
    estimates = {
        "canonical_singular_values": spectrum.canonical_singular_values,
        "singular_values": spectrum.singular_values,
        "eigenvalue_modulus": np.abs(spectrum.eigenvalues),
        "eigenvalue_real": spectrum.eigenvalues.real,
        "eigenvalue_imag": spectrum.eigenvalues.imag,
        "timescales": spectrum.timescales,
        "frequencies": spectrum.frequencies,
    }
    assert {"eigenvalues" if n in ("eigenvalue_real", "eigenvalue_imag") else n for n in estimates} == set(INTERVALS)
    for name, estimate in estimates.items():
        lower, upper = bounds_of(intervals, name)
        assert (lower <= estimate.values + 1e-12).all(), name
        assert (estimate.values <= upper + 1e-12).all(), name
        if name not in ("eigenvalue_real", "eigenvalue_imag", "frequencies"):
            assert (lower >= 0).all(), name
    lower, upper = bounds_of(intervals, "canonical_singular_values")
    assert (upper <= 1 + 1e-12).all()
    assert (upper > lower)[1:].all()


def test_the_timescale_interval_is_that_of_the_modulus_with_dt_and_its_unit():
    _, moments = exact_moments(CHAIN, 4, 2000)
    clock = Clock(1, 0.5, "ps")
    intervals = bootstrap_intervals(dataclasses.replace(moments, clock=clock), bootstrap=Bootstrap(100))
    wanted = clock.timescales(np.minimum(bounds_of(intervals, "eigenvalue_modulus"), 1))
    assert np.allclose(bounds_of(intervals, "timescales")[:, 1:], wanted[:, 1:])
    plain = bounds_of(bootstrap_intervals(moments, bootstrap=Bootstrap(100)), "timescales")
    assert np.allclose(bounds_of(intervals, "timescales")[:, 1:], plain[:, 1:] / 2)
    assert intervals.timescales_interval.attrs["units"] == "ps"
    assert intervals.frequencies_interval.attrs["units"] == "1/ps"
    assert (intervals.attrs["dt"], intervals.attrs["time_unit"], intervals.attrs["lag"]) == (0.5, "ps", 1)


def test_a_higher_level_and_fewer_pairs_make_wider_intervals():
    _, moments = exact_moments(CHAIN, 4, 8000)
    _, few = exact_moments(CHAIN, 4, 500)

    def widths(moments, level):
        intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(300, level))
        return np.diff(bounds_of(intervals, "canonical_singular_values"), axis=0)[0, 1:]

    assert (widths(moments, 0.99) > 1.2 * widths(moments, 0.95)).all()
    assert (widths(few, 0.95) > 2 * widths(moments, 0.95)).all()


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_fresh_samples():
    fresh = [exact_moments(CHAIN, 4, 4000, seed=s)[1] for s in range(40)]
    values = np.array([koopman_spectrum(m).canonical_singular_values.values for m in fresh])
    errors = [bootstrap_intervals(m, bootstrap=Bootstrap(200)).canonical_standard_error.values for m in fresh[:10]]
    assert np.allclose(np.mean(errors, axis=0)[1:], values.std(axis=0)[1:], rtol=0.3)


def test_svals_move_K_matrix_intervals_only():
    _, moments = exact_moments(CHAIN, 4, 2000)
    moments = moments.transformed(np.eye(4) + 0.3, np.eye(4))
    plain = bootstrap_intervals(moments, bootstrap=Bootstrap(50))
    scaled = bootstrap_intervals(moments, np.array([1.0, 0.5, 0.2, 0.1]), bootstrap=Bootstrap(50))
    canonical, K_values = "canonical_singular_values", "singular_values"
    assert np.allclose(bounds_of(plain, canonical), bounds_of(scaled, canonical), rtol=1e-9)
    assert not np.allclose(bounds_of(plain, K_values), bounds_of(scaled, K_values), rtol=0.05)
    spectrum = koopman_spectrum(moments, np.array([1.0, 0.5, 0.2, 0.1]))
    lower, upper = bounds_of(scaled, K_values)
    assert ((lower <= spectrum.singular_values.values) & (spectrum.singular_values.values <= upper)).all()


@pytest.mark.parametrize("svals", [None, [1.0, 0.6, 0.3, 0.1], [1.0, 0.6, 0.3, 0.0]], ids=["none", "all", "one is 0"])
@pytest.mark.parametrize("is_reversible", [False, True])
@pytest.mark.parametrize("kind", ["constant among them", "complex"])
def test_K_matrix_intervals_are_of_each_resample_solved_alone(kind, is_reversible, svals):
    one, column = torch.ones_like, lambda x: torch.sin(x / 3).double()
    features = {
        "constant among them": lambda x: torch.cat([one(column(x)), column(x), column(2 * x), x**0.5], dim=1),
        "complex": lambda x: torch.exp(1j * torch.cat([x, 2 * x, x / 3, column(x)], dim=1)),
    }[kind]
    walk = 10 + np.abs(np.random.default_rng(0).normal(size=(4, 300, 1)).cumsum(axis=1))
    pairs = lagged_pairs(list(walk))
    moments = estimate_moments(features, features, pairs.both_ways() if is_reversible else pairs)
    bootstrap = Bootstrap(n_resamples=40)
    found = bootstrap_intervals(moments, svals, bootstrap).singular_values_interval.values

    merged = in_long_blocks(moments)
    weights = np.concatenate([np.ones((1, merged.n_blocks)), bootstrap.weights(merged.n_blocks)])
    root = np.ones(4) if svals is None else np.sqrt(svals)
    values = []
    for row in weights:
        one_resample = merged.reweighted(row[None])
        M, T = ((one_resample.between(name)[0] * root) * root[:, None] for name in ("M_f", "T_fg"))
        values.append(np.linalg.svd(np.linalg.pinv(M, rcond=1e-12, hermitian=True) @ T, compute_uv=False))
    expected = t_interval(values[0], np.array(values[1:]), bootstrap.t_factor(merged.n_blocks))
    np.testing.assert_allclose(found, np.maximum(expected, 0.0), rtol=1e-6, atol=1e-8)


def test_moments_without_the_same_map_have_no_eigenvalue_intervals():
    _, moments = exact_moments(CHAIN, 4, 1000)
    cross = dataclasses.replace(moments, block_sums={n: moments.block_sums[n] for n in CROSS})
    intervals = bootstrap_intervals(cross, bootstrap=Bootstrap(20))
    names = "canonical_singular_values_interval", "singular_values_interval", "canonical_standard_error"
    assert set(intervals) == set(names)


def test_matching_keeps_conjugate_pairs():
    estimate = np.array([1.0, 0.5 + 0.1j, 0.5 - 0.1j, 0.3])
    drawn = np.array([[0.31, 0.52 - 0.12j, 1.0, 0.52 + 0.12j], [0.48 - 0.09j, 0.48 + 0.09j, 0.29, 1.0]])
    matched = match_eigenvalues(estimate, drawn)
    assert np.allclose(matched, [[1, 0.52 + 0.12j, 0.52 - 0.12j, 0.31], [1, 0.48 + 0.09j, 0.48 - 0.09j, 0.29]])


@given(seed=st.integers(0, 1000))
def test_matching_permutes_and_is_never_farther_than_the_order_given(seed):
    rng = np.random.default_rng(seed)
    estimate, drawn = rng.normal(size=5) + 1j * rng.normal(size=5), rng.normal(size=(4, 5)) + 0j
    matched = match_eigenvalues(estimate, drawn)
    assert np.allclose(np.sort(matched.real, axis=1), np.sort(drawn.real, axis=1))
    assert (np.abs(matched - estimate).sum(axis=1) <= np.abs(drawn - estimate).sum(axis=1) + 1e-12).all()


def test_a_rotation_has_symmetric_intervals_of_its_conjugate_pairs():
    _, moments = exact_moments(NoisyRotation(), 5, 4000)
    intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(200))
    real, imag = bounds_of(intervals, "eigenvalue_real"), bounds_of(intervals, "eigenvalue_imag")
    assert np.allclose(imag[:, 1], -imag[::-1, 2], atol=1e-9)
    assert np.allclose(real[:, 1], real[:, 2], atol=1e-9)
    assert (imag[:, 1] > 0.3).all()


@pytest.mark.slow
@pytest.mark.parametrize("system", [CHAIN, NoisyRotation()], ids=["chain", "rotation"])
def test_intervals_cover_the_truth_as_often_as_they_say(system):
    """The whole benchmark is in benchmarks/trust.py."""
    inside = []
    for seed in range(60):
        reference, moments = exact_moments(system, 4 if system is CHAIN else 5, 4000, seed)
        intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(200, seed=seed))
        truth = {
            "canonical_singular_values": reference.singular_values,
            "eigenvalue_modulus": np.abs(reference.eigenvalues),
            "eigenvalue_real": reference.eigenvalues.real,
            "timescales": reference.to_dataset().timescales.values,
        }
        bounds = {name: bounds_of(intervals, name) for name in truth}
        inside.append([(bounds[n][0] <= v)[1:] & (v <= bounds[n][1])[1:] for n, v in truth.items()])
    share = np.mean(inside, axis=(0, 2))
    assert ((share >= 0.87) & (share <= 1.0)).all(), share


def test_too_few_blocks_are_refused():
    _, coarse = exact_moments(CHAIN, 4, 1000, n_blocks=4)
    with pytest.raises(ValueError, match=r"at least 8 blocks to resample; got 4. Use estimate_moments\(n_blocks=64\)"):
        bootstrap_intervals(coarse)
