"""Health of data before a fit: known answers, a case for every sentence, and none where all is well."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.signal import lfilter

import koopman_lora as kl
from koopman_lora.data.frames import frames_of
from koopman_lora.data.memory import drift, memory
from koopman_lora.tables import health_text


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def with_memory(a, n, seed=0, d=1):
    """Stationary AR(1) of unit variance (n, d), whose autocorrelation time is 1 / 2 + a / (1 - a)."""
    rng = np.random.default_rng(seed)
    values = np.sqrt(1 - a**2) * rng.normal(size=(n, d))
    return lfilter([1], [1, -a], values, axis=0, zi=a * rng.normal(size=(1, d)))[0]


def findings(data, *arguments, **named):
    return {f.name: f.message for f in kl.health_findings(kl.data_health(data, *arguments, **named))}


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_moments_values_and_steps_are_those_of_all_frames():
    x = np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [9.0, 0.0]])
    health = kl.data_health(x, lag=2)
    assert np.allclose(health["mean"], x.mean(0))
    assert np.allclose(health.deviation, x.std(0))
    assert health.largest_step.values.tolist() == [3.0, 1.0]  # steps 2, 0, 6 and 0, 2, 2
    assert np.allclose(health.repeated_share, [1 / 3, 1 / 3])
    assert health.n_values.values.tolist() == [3, 2]
    assert health.common_share.values.tolist() == [0.5, 0.75]
    assert health.common_value.values.tolist() == [3.0, 0.0]
    assert (health.attrs["n_frames"], health.attrs["n_pairs"]) == (4, 2)


@pytest.mark.parametrize("a", [0.0, 0.8, 0.95])
def test_memory_and_independent_samples_of_known_processes(a):
    health = kl.data_health(with_memory(a, 40_000, d=4), dt=0.5, time_unit="ps")
    tau = 0.5 + a / (1 - a)
    assert np.allclose(health.autocorrelation_time, 0.5 * tau, rtol=0.15)
    assert np.allclose(health.effective_samples, 40_000 / (2 * tau), rtol=0.15)
    assert health.autocorrelation_time.units == "ps"


def test_memory_comes_from_products_within_runs_of_any_length():
    lengths = (1, 7, 300, 50, 300, 2)
    x = np.concatenate([with_memory(0.9, n, seed)[:, 0] for seed, n in enumerate(lengths)])
    runs = np.cumsum([0, *lengths])
    direct = np.zeros(300)
    for start, end in itertools.pairwise(runs):
        part = x[start:end]
        direct[: len(part)] += [part[k:] @ part[: len(part) - k] for k in range(len(part))]
    neighbours = (direct[0::2] + direct[1::2]) / direct[0]
    seen = np.minimum.accumulate(neighbours[: np.argmax(neighbours <= 0)])
    assert np.isclose(memory(x[None], runs).time[0], seen.sum() - 0.5)


def test_short_trajectories_count_for_as_many_samples_as_there_are():
    starts = noise(200, 1, 1)
    health = kl.data_health(list(starts + 1e-3 * noise(200, 20, 1, seed=1)))  # nothing moves within one
    assert 150 < health.effective_samples.item() < 250


def test_jumps_are_found_with_their_place():
    x = noise(2, 1000, 2)
    x[1, 300:, 1] += 100.0
    health = kl.data_health(list(x))
    assert health.n_jumps.values.tolist() == [0, 1]
    assert (int(health.jump_trajectory[1]), int(health.jump_frame[1])) == (1, 300)


def test_names_units_and_sizes_are_there():
    dates = pd.date_range("2020-01-01", periods=100, freq="D")
    data = xr.DataArray(noise(100, 2), dims=("time", "what"), coords={"time": dates, "what": ["rain", "wind"]})
    health = kl.data_health(data, lag=7)
    assert health.coordinate.values.tolist() == ["rain", "wind"]
    assert health.autocorrelation_time.units == "day"
    assert {k: health.attrs[k] for k in ("lag_time", "n_trajectories", "shortest_trajectory")} == {
        "lag_time": 7.0, "n_trajectories": 1, "shortest_trajectory": 100,
    }  # fmt: skip


def test_pairs_give_what_their_trajectories_give():
    data = [noise(40, 2), noise(60, 2, seed=1)]
    health, same = kl.data_health(data, lag=3), kl.data_health(kl.lagged_pairs(data, lag=3))
    xr.testing.assert_equal(health, same)


def test_large_and_tiny_units_change_nothing_that_has_none():
    x = with_memory(0.9, 2000, d=2)
    ours = kl.data_health(x)
    for scale in (1e300, 1e-300):
        other = kl.data_health(scale * x)
        for name in ("drift", "drift_p_value", "autocorrelation_time", "largest_step"):
            assert np.allclose(ours[name], other[name], rtol=1e-6), name


def test_states_with_many_entries_are_looked_at_in_some():
    health = kl.data_health(noise(30, 40, 50))
    assert health.sizes["coordinate"] == 1000
    assert health.coordinate.values[[0, -1]].tolist() == ["0,0", "39,49"]
    assert "and 1970 more" in health_text(health)


# ---- frames behind pairs ---------------------------------------------------------------------------------------------


def test_explicit_pairs_of_several_trajectories_are_told_apart():
    parts = [noise(30, 1), 50 + noise(40, 1, seed=1)]
    x, x_next = (np.concatenate([p[cut] for p in parts]) for cut in (slice(None, -2), slice(2, None)))
    frames = frames_of(kl.lagged_pairs((x, x_next), lag=2))
    assert np.diff(frames.runs()).tolist() == [30, 40]
    assert findings((x, x_next), lag=2).keys() == findings(parts, lag=2).keys()
    assert "jumps" not in findings((x, x_next))  # no pair crosses the join


def test_explicit_pairs_that_follow_nothing_are_taken_one_by_one():
    x = noise(500, 1)
    frames = frames_of(kl.lagged_pairs((x, x + noise(500, 1, seed=1)), lag=3))
    assert not frames.is_timed
    assert len(frames.rows) == 500
    health = kl.data_health((x, x + noise(500, 1, seed=1)), lag=3, dt=0.1, time_unit="s")
    assert health.autocorrelation_time.units == "pair"
    assert np.isclose(health.effective_samples, 500 / (2 * health.autocorrelation_time))


def test_chosen_pairs_know_their_gaps():
    pairs = kl.lagged_pairs(np.arange(20.0), lag=2).select([9, 1, 2, 3])
    frames = frames_of(pairs)
    assert frames.frame.tolist() == [1, 2, 3, 4, 5, 9, 11]
    assert frames.runs().tolist() == [0, 5, 6, 7]


# ---- all is well -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "system",
    [kl.systems.FourWellLandscape2D(), kl.systems.NoisyRotation(), kl.systems.NoisyLogisticMap(20)],
    ids=lambda s: type(s).__name__,
)
def test_nothing_is_said_of_systems_that_are_well_sampled(system):
    assert [findings(system.simulate(8, 2500, seed=seed), lag=2) for seed in range(2)] == [{}, {}]


def test_nothing_is_said_of_states_counts_and_rounded_numbers():
    chain = kl.systems.FiniteMarkovChain.with_blocks(3, 3).simulate(4, 2000, seed=0)
    counts = np.random.default_rng(0).poisson(0.3, size=(4000, 1))
    rounded = with_memory(0.99, 40_000).round(2)
    assert [findings(data) for data in (chain, counts, rounded)] == [{}, {}, {}]


def p_values(series, lengths):
    """Of the drift of series (d, n_frames)."""
    edges = np.cumsum([0, *lengths])
    centred = series - series.mean(1, keepdims=True)
    return drift(centred, edges, memory(centred, edges).age).p_value


@pytest.mark.parametrize("lengths", [(4000,), (2000, 1500, 500), (400,) * 10], ids=str)
def test_stationary_data_seldom_drift(lengths):
    """400 data sets each, at a level of 1 in 100: more than 11 come in less than 1 of 1000 cases."""
    white = noise(400, 4000, seed=1)
    slow = np.concatenate([with_memory(0.98, n, seed, d=400) for seed, n in enumerate(lengths)]).T
    assert max(np.sum(p_values(x, lengths) < 0.01) for x in (white, slow)) <= 11


def test_wells_seldom_drift():
    x = kl.systems.FourWellLangevin1D().simulate(200, 1000, seed=0).values[:, :, 0]
    assert np.sum(p_values(x, (1000,)) < 0.01) <= 7


def test_the_error_of_a_drift_holds_where_frames_are_hardly_independent():
    """20 memories long, where means of blocks would say of many more than 5 in 100 that p < .05."""
    x = np.concatenate([with_memory(0.99, 2000, seed, d=100) for seed in range(4)], axis=1).T
    assert np.mean(p_values(x, (2000,)) < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


# ---- one case for every sentence -------------------------------------------------------------------------------------

TIME = np.linspace(0, 1, 3000)[:, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", [TIME, 1.0 * (TIME > 0.5), 5 * (TIME > 0.5), -TIME], ids=str)
def test_trends_and_shifts_are_drift(change, seed):
    for data in (
        noise(3000, 3, seed=seed) + [1, 0, 0] * change,
        list((noise(3000, 1, seed=seed) + change).reshape(10, -1)),
    ):
        assert "drift" in findings(data) or len(data) == 10  # ten parts of one series drift one after another
    many = [noise(100, 1, seed=10 * seed + i) + np.linspace(0, 1, 100)[:, None] for i in range(20)]
    assert findings(many)["drift"].startswith("the mean of coordinate 0 (+0.6")


@pytest.mark.parametrize("seed", range(3))
def test_too_few_samples_of_what_is_slow(seed):
    found = findings(np.cumsum(noise(2000, 1, seed=seed), axis=0), dt=2.0, time_unit="ps")
    assert "ps, so that 2000 frames are worth" in found["few independent samples"]
    switch = noise(4000, 2, seed=seed) * 0.1
    switch[1300:, 1] += 2.0
    assert "coordinate 1 remembers" in findings(switch)["few independent samples"]


def test_a_lag_that_takes_much_of_the_trajectories():
    found = findings([noise(60, 1), noise(30, 1, seed=1), noise(30, 1, seed=2)], lag=15)
    assert set(found) == {"short trajectories"}
    assert (
        "lag=15 takes 38 % of a trajectory of 40 frames (mean of 3; the shortest has 30)"
        in (found["short trajectories"])
    )
    assert findings([noise(160, 1), noise(30, 1, seed=1), noise(130, 1, seed=2)], lag=15) == {}


@pytest.mark.parametrize("seed", range(3))
def test_more_coordinates_than_the_samples_bear_show_what_noise_shows(seed):
    x = noise(151, 20, seed=seed)
    text = findings(x)["many coordinates"]
    said = float(text.split("up to ")[1].split(". ")[0])
    pairs = kl.lagged_pairs(x - x.mean(0))
    shown = kl.koopman_spectrum(kl.estimate_moments(kl.flat_state, kl.flat_state, pairs)).canonical_singular_values[0]
    assert abs(float(shown) - said) < 0.1
    assert "many coordinates" not in findings(noise(301, 20, seed=seed))


def test_constant_coordinates_and_copies():
    x = noise(2000, 5)
    x[:, 1], x[:, 3] = 3.0, 1 - 1e4 * x[:, 2]
    found = findings(x)
    assert list(found) == ["constant coordinates", "duplicate coordinates"]
    assert found["constant coordinates"].startswith("coordinate 1 never changes")
    assert found["duplicate coordinates"].startswith("coordinate 3 (as 2): the same but for shift and scale")
    nearly = x[:, [0, 2, 4]] + 1e-3 * x[:, [2, 4, 0]]
    assert findings(nearly) == {}


@pytest.mark.parametrize("seed", range(3))
def test_outliers_and_parts_glued_together_are_jumps(seed):
    outlier, glued = noise(3000, 2, seed=seed), with_memory(0.9, 3000, seed)
    outlier[1234, 1] = 200.0
    glued[1000:2000] += 60.0
    assert "coordinate 1 jumps 2 times, the furthest at frame 123" in findings(outlier)["jumps"]
    assert "coordinate 0 jumps 2 times" in findings(glued)["jumps"]
    assert findings(np.random.default_rng(seed).standard_t(3, size=(3000, 2))) == {}


def test_raw_angles_and_boxes():
    walk = np.cumsum(noise(20_000, 3), axis=0)
    found = findings(np.stack([(20 * walk[:, 0]) % 360, (2 * walk[:, 1]) % 37, noise(20_000, seed=1)], axis=1))
    assert set(found) == {"raw angles", "periodic box"}
    assert "coordinate 0 looks like an angle" in found["raw angles"]
    assert "period=360" in found["raw angles"]
    assert "coordinate 1 jumps over the whole range, 37" in found["periodic box"]


@pytest.mark.parametrize("seed", range(3))
def test_values_that_repeat_in_what_is_continuous(seed):
    x = noise(3000, 3, seed=seed)
    x[np.random.default_rng(seed).random(3000) < 0.2, 0] = -999.0
    x[:, 1] = np.repeat(x[::2, 1], 2)
    found = findings(x)
    assert set(found) == {"repeated values"}
    assert found["repeated values"].startswith(
        "coordinates 0, 1 repeat themselves: coordinate 1 is exactly as one frame"
    )
    assert "is exactly -999 in" in findings(x[:, [0, 2]])["repeated values"]


def test_entries_of_very_different_scale_matter_where_they_share_one():
    x = noise(500, 2, 8, 8).astype(np.float32)
    by_channel, within = x.copy(), x.copy()
    by_channel[:, 1] *= 1e6
    within[:, :, 0] *= 1e6
    assert findings(by_channel) == {}  # each channel has a scale of its own
    assert "very different scales" in findings(within)
    assert findings(noise(500, 2) * [1.0, 1e6]) == {}  # so has each coordinate of a vector


def test_the_most_serious_comes_first():
    x = noise(3000, 4) + [0, 1, 0, 0] * TIME
    x[:, 2], x[:, 3], x[77, 0] = 1.0, x[:, 1], 1e3
    assert list(findings(x)) == ["constant coordinates", "jumps", "drift", "duplicate coordinates"]


# ---- text, files, refusals -------------------------------------------------------------------------------------------


def test_text_says_sizes_numbers_and_sentences():
    x = noise(3000, 2)
    x[:, 1] = 5.0
    lines = health_text(kl.data_health(x, lag=2, dt=0.5, time_unit="ps")).splitlines()
    assert lines[0] == "1 trajectory of 3000 frames, 2998 pairs at lag 2 (1 ps)"
    assert lines[1].split() == [
        "coordinate", "mean", "deviation", "drift", "+-", "err.", "memory", "(ps)", "samples", "largest", "step",
    ]  # fmt: skip
    assert lines[3].split() == ["1", "5", "0", "-", "-", "-", "-"]
    assert lines[4].startswith("constant coordinates: coordinate 1 never changes")
    assert health_text(kl.data_health((x[:9, :1], x[1:10, :1]))).splitlines()[0].endswith("9 pairs at an unknown lag")


def test_a_saved_table_says_the_same(tmp_path):
    health = kl.data_health(noise(400, 4, 4))
    kl.save_dataset(health, tmp_path / "health.nc")
    assert health_text(kl.load_dataset(tmp_path / "health.nc")) == health_text(health)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 17, 18, 40])
def test_very_short_data_are_no_error(n):
    health = kl.data_health(noise(n, 2))
    assert np.isfinite(health.effective_samples).all()
    assert np.isfinite(health.drift).all() == (n >= 18)
    assert bool(findings(noise(n, 2))) == (n < 20)


def test_what_cannot_be_fitted_is_refused_as_by_the_pairs():
    with pytest.raises(ValueError, match="lag=5 needs trajectories of more than 5 frames"):
        kl.data_health([noise(9, 1), noise(4, 1)], lag=5)
    with pytest.raises(ValueError, match="lag=2 contradicts the pairs"):
        kl.data_health(kl.lagged_pairs(noise(9, 1)), lag=2)
    with pytest.raises(ValueError, match="data must have at least one pair"):
        kl.data_health(kl.lagged_pairs(noise(9, 1)).select(np.arange(0)))
    with pytest.raises(ValueError, match="health must be the result of data_health; it lacks"):
        kl.health_findings(xr.Dataset())
    with pytest.raises(ValueError, match="health must be the result of data_health; it lacks"):
        health_text(xr.Dataset())
