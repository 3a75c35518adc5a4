import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.intervals import (
    block_weights,
    bootstrap_intervals,
    eigenvalue_intervals,
    match_eigenvalues,
    percentile_interval,
    resampled_moments,
    t_factor,
    t_interval,
)
from koopman_lora.moments import Moments
from koopman_lora.spectrum import implied_timescales, koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation

CHAIN = FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)
INTERVALS = (
    "canonical_singular_values",
    "singular_values",
    "eigenvalue_modulus",
    "eigenvalue_real",
    "eigenvalue_imag",
    "timescales",
    "frequencies",
)


def exact_moments(system, n_modes, n_pairs, seed=0, n_blocks=64):
    reference = system.spectrum(lag=1, n_modes=n_modes)
    pairs = lagged_pairs(system.simulate(n_trajectories=2, n_steps=n_pairs // 2 + 1, seed=seed))
    maps = (lambda x: reference.left(x.numpy()), lambda x: reference.right(x.numpy()))
    return reference, estimate_moments(*maps, pairs, n_blocks=n_blocks)


def test_weights_draw_as_many_blocks_as_there_are():
    weights = block_weights(10, 2000, seed=1)
    assert (weights.sum(axis=1) == 10).all()
    assert np.allclose(weights.mean(axis=0), 1, atol=0.1)
    assert np.allclose(weights.var(axis=0), 0.9, atol=0.15)  # binomial(10, 1/10)
    assert (weights == block_weights(10, 2000, seed=1)).all()
    assert (weights != block_weights(10, 2000, seed=2)).any()


@given(seed=st.integers(0, 500), kind=st.sampled_from(["real", "complex"]))
def test_reweighting_blocks_is_recomputing_from_duplicated_blocks(seed, kind):
    rng = np.random.default_rng(seed)
    f, g = rng.normal(size=(2, 24, 3)) + (1j * rng.normal(size=(2, 24, 3)) if kind == "complex" else 0)
    rows = torch.arange(24)[:, None]
    maps = (lambda i: f[i[:, 0].numpy()], lambda i: g[i[:, 0].numpy()])
    moments = estimate_moments(*maps, (rows, rows), n_blocks=6)
    weights = block_weights(6, 3, seed)
    resampled = moments.reweighted(weights)
    for i, weight in enumerate(weights):
        duplicated = torch.cat([rows[4 * b : 4 * b + 4] for b, count in enumerate(weight) for _ in range(count)])
        direct = estimate_moments(*maps, (duplicated, duplicated), n_blocks=1)
        for name in ("M_f", "M_g", "T_fg", "T_ff", "M_f1", "C_gf"):
            assert np.allclose(resampled[name][i], getattr(direct, name), rtol=1e-12, atol=1e-12)


def test_resampled_moments_begin_with_the_data_as_they_are():
    _, moments = exact_moments(CHAIN, 4, 1000)
    stack = resampled_moments(moments, 3, seed=7)
    drawn = moments.reweighted(block_weights(moments.n_blocks, 3, seed=7))
    for name in moments.names:
        np.testing.assert_allclose(stack[name][0], getattr(moments, name), rtol=1e-12)
        np.testing.assert_array_equal(stack[name][1:], drawn[name])


def test_percentiles_of_what_may_be_infinite_and_of_complex_values():
    samples = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, np.inf], [4.0, np.inf], [5.0, np.inf]])
    np.testing.assert_array_equal(percentile_interval(samples, 0.9), [[1, 1], [5, np.inf]])
    turned = percentile_interval(samples[:, 0] - 2j * samples[:, 0], 0.9)
    np.testing.assert_array_equal(turned, [1 - 10j, 5 - 2j])


def test_bias_widens_a_t_interval_to_one_side():
    drawn = np.array([[2.0], [4.0]])
    np.testing.assert_allclose(t_interval(np.array([2.0]), drawn, 2.0), [[2 - 1 - 2, 2 + 2]])
    np.testing.assert_allclose(t_interval(np.array([4.0]), drawn, 2.0), [[4 - 2, 4 + 1 + 2]])
    np.testing.assert_allclose(t_interval(np.exp([3.0]), np.exp(drawn), 2.0, np.log, np.exp), np.exp([[1, 5]]))


def test_t_factor_tends_to_the_normal_quantile():
    assert abs(t_factor(0.95, 10**6) - 1.959964) < 1e-4


def test_frequencies_do_not_jump_at_the_end_of_the_branch():
    """An eigenvalue near -1 turns by half a revolution a lag, to one side or the other."""
    estimate = 0.9 * np.exp(1j * np.array([3.1]))
    drawn = 0.9 * np.exp(1j * np.array([[3.0], [3.2], [3.1]]))
    low, high = eigenvalue_intervals(estimate, drawn, 2.0, lag_time=1.0)["frequencies"][0]
    assert 0.4 < low < 3.1 / (2 * np.pi) < high < 0.6


def test_the_constant_mode_has_a_point_interval_and_no_finite_timescale():
    _, moments = exact_moments(CHAIN, 4, 4000)
    intervals = bootstrap_intervals(moments, n_resamples=100)
    for name in ("canonical_singular_values", "eigenvalue_modulus", "eigenvalue_real"):
        assert np.allclose(intervals[name][0], 1, atol=1e-9), name
    assert np.allclose(intervals["eigenvalue_imag"][0], 0, atol=1e-9)
    assert np.isinf(intervals["timescales"][0]).all()


def test_intervals_hold_the_estimate_and_stay_where_the_values_can_be():
    _, moments = exact_moments(CHAIN, 4, 600)
    spectrum, intervals = koopman_spectrum(moments), bootstrap_intervals(moments, n_resamples=200)
    estimates = {
        "canonical_singular_values": spectrum.canonical_singular_values,
        "singular_values": spectrum.singular_values,
        "eigenvalue_modulus": np.abs(spectrum.eigenvalues),
        "eigenvalue_real": spectrum.eigenvalues.real,
        "eigenvalue_imag": spectrum.eigenvalues.imag,
        "timescales": spectrum.timescales,
        "frequencies": spectrum.frequencies,
    }
    assert set(estimates) == set(INTERVALS)
    for name, estimate in estimates.items():
        lower, upper = intervals[name].values.T
        assert (lower <= estimate.values + 1e-12).all(), name
        assert (estimate.values <= upper + 1e-12).all(), name
        if name not in ("eigenvalue_real", "eigenvalue_imag", "frequencies"):
            assert (lower >= 0).all(), name
    assert (intervals["canonical_singular_values"] <= 1 + 1e-12).all()
    assert (intervals["canonical_singular_values"].diff("bound")[1:] > 0).all()


def test_the_timescale_interval_is_that_of_the_modulus_with_dt_and_its_unit():
    _, moments = exact_moments(CHAIN, 4, 2000)
    intervals = bootstrap_intervals(moments, lag=1, dt=0.5, time_unit="ps", n_resamples=100)
    wanted = implied_timescales(np.minimum(intervals["eigenvalue_modulus"].values, 1), 0.5)
    assert np.allclose(intervals["timescales"].values[1:], wanted[1:])
    assert intervals["timescales"].attrs["units"] == "ps"
    assert (intervals.attrs["dt"], intervals.attrs["time_unit"], intervals.attrs["lag"]) == (0.5, "ps", 1)


def test_a_higher_level_and_fewer_pairs_make_wider_intervals():
    _, moments = exact_moments(CHAIN, 4, 8000)
    _, few = exact_moments(CHAIN, 4, 500)

    def widths(moments, level):
        intervals = bootstrap_intervals(moments, level=level, n_resamples=300)
        return intervals["canonical_singular_values"].diff("bound").values[1:, 0]

    assert (widths(moments, 0.99) > 1.2 * widths(moments, 0.95)).all()
    assert (widths(few, 0.95) > 2 * widths(moments, 0.95)).all()


def test_the_standard_error_is_the_spread_over_fresh_samples():
    fresh = [exact_moments(CHAIN, 4, 4000, seed=s)[1] for s in range(40)]
    values = np.array([koopman_spectrum(m).canonical_singular_values.values for m in fresh])
    errors = [bootstrap_intervals(m, n_resamples=200).canonical_standard_error.values for m in fresh[:10]]
    assert np.allclose(np.mean(errors, axis=0)[1:], values.std(axis=0)[1:], rtol=0.3)


def test_svals_move_K_matrix_intervals_only():
    _, moments = exact_moments(CHAIN, 4, 2000)
    moments = moments.transformed(np.eye(4) + 0.3, np.eye(4))
    plain = bootstrap_intervals(moments, n_resamples=50)
    scaled = bootstrap_intervals(moments, np.array([1.0, 0.5, 0.2, 0.1]), n_resamples=50)
    assert np.allclose(plain["canonical_singular_values"], scaled["canonical_singular_values"], rtol=1e-9)
    assert not np.allclose(plain["singular_values"], scaled["singular_values"], rtol=0.05)
    spectrum = koopman_spectrum(moments, np.array([1.0, 0.5, 0.2, 0.1]))
    lower, upper = scaled["singular_values"].values.T
    assert ((lower <= spectrum.singular_values.values) & (spectrum.singular_values.values <= upper)).all()


def test_moments_without_the_same_map_have_no_eigenvalue_intervals():
    _, moments = exact_moments(CHAIN, 4, 1000)
    cross = Moments({n: moments.block_sums[n] for n in ("M_f", "M_g", "T_fg")}, moments.block_counts)
    intervals = bootstrap_intervals(cross, n_resamples=20)
    assert {"canonical_singular_values", "singular_values"} <= set(intervals)
    assert "timescales" not in intervals
    assert "eigenvalue_modulus" not in intervals


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
    intervals = bootstrap_intervals(moments, n_resamples=200)
    imag = intervals["eigenvalue_imag"].values
    assert np.allclose(imag[1], -imag[2][::-1], atol=1e-9)
    assert np.allclose(intervals["eigenvalue_real"][1], intervals["eigenvalue_real"][2], atol=1e-9)
    assert (imag[1] > 0.3).all()


@pytest.mark.slow
@pytest.mark.parametrize("system", [CHAIN, NoisyRotation()], ids=["chain", "rotation"])
def test_intervals_cover_the_truth_as_often_as_they_say(system):
    """The whole benchmark is in benchmarks/trust.py: 0.92 to 0.98 over six systems, 100 repetitions."""
    inside = []
    for seed in range(60):
        reference, moments = exact_moments(system, 4 if system is CHAIN else 5, 4000, seed)
        intervals = bootstrap_intervals(moments, n_resamples=200, seed=seed)
        truth = {
            "canonical_singular_values": reference.singular_values,
            "eigenvalue_modulus": np.abs(reference.eigenvalues),
            "eigenvalue_real": reference.eigenvalues.real,
            "timescales": reference.to_dataset().timescales.values,
        }
        covers = [
            (intervals[n].values[1:, 0] <= v[1:]) & (v[1:] <= intervals[n].values[1:, 1]) for n, v in truth.items()
        ]
        inside.append(covers)
    share = np.mean(inside, axis=(0, 2))
    assert ((share >= 0.87) & (share <= 1.0)).all(), share


def test_errors():
    _, moments = exact_moments(CHAIN, 4, 1000)
    for level in (0, 1, 95, -0.5):
        with pytest.raises(ValueError, match=rf"level must lie between 0 and 1; got {level}"):
            bootstrap_intervals(moments, level=level)
    _, coarse = exact_moments(CHAIN, 4, 1000, n_blocks=4)
    with pytest.raises(ValueError, match=r"at least 8 blocks to resample; got 4. Use estimate_moments\(n_blocks=64\)"):
        bootstrap_intervals(coarse)
    with pytest.raises(ValueError, match="n_resamples must be at least 1; got 0"):
        bootstrap_intervals(moments, n_resamples=0)
    with pytest.raises(ValueError, match="at least 2 blocks for a bootstrap; got 1"):
        block_weights(1, 10)
    with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
        percentile_interval(np.arange(3.0), 95)
