"""Labelled grids: what a fit sees of them, and how labels come back."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import xeofs_pop
from deeptime.decomposition import VAMP

import koopman_lora as kl
from koopman_lora.accumulation import estimate_moments
from koopman_lora.spectrum import koopman_spectrum

LAT, LON = np.array([-60.0, 0.0, 45.0]), np.array([0.0, 90.0, 180.0, 270.0])
MONTHS = pd.date_range("1980-01-16", periods=360, freq="MS") + pd.Timedelta(days=15)


def ocean(n=360, times=MONTHS, seed=0, period=48.0):
    """A wave that turns once in so many months, a second slower pattern, noise, and land at lon 90."""
    rng, t = np.random.default_rng(seed), np.arange(n)
    phase = 2 * np.pi * t / period + np.cumsum(0.1 * rng.normal(size=n))
    wave = np.cos(phase[:, None] - np.deg2rad(LON))[:, None, :] * np.cos(np.deg2rad(LAT))[:, None]
    values = 3 * wave + 0.3 * rng.normal(size=(n, len(LAT), len(LON))) + 280
    data = xr.DataArray(
        values, dims=("time", "lat", "lon"), coords={"time": times[:n], "lat": LAT, "lon": LON}, name="sst"
    )
    return data.where(data.lon != 90)


def linear_sigma(trajectories, lag=1):
    pairs = kl.lagged_pairs(trajectories, lag=lag)
    one_and_state = lambda x: np.hstack([np.ones((len(x), 1)), x.numpy()])  # noqa: E731
    return koopman_spectrum(estimate_moments(one_and_state, one_and_state, pairs)).canonical_singular_values.values


# ---- what a fit sees -------------------------------------------------------------------------------------------------


def test_eofs_are_those_of_the_weighted_anomalies():
    data = ocean()
    field = kl.Field(data, weights="cos(lat)", n_eofs=3)
    anomalies = (data - data.mean("time")).stack(cell=("lat", "lon")).dropna("cell")
    weighted = anomalies * np.sqrt(np.cos(np.deg2rad(anomalies.lat)))
    s = np.linalg.svd(weighted.values, compute_uv=False)
    assert np.allclose(field.explained_variance_ratio, (s**2 / np.sum(s**2))[:3], rtol=1e-12)
    scores = field.trajectories[0].values
    assert np.allclose(np.corrcoef(scores.T), np.eye(3), atol=1e-10)
    # an EOF is the regression of the field on its score, in the unit of the data
    score = xr.DataArray(scores[:, 0] / scores[:, 0].std(), dims="time", coords={"time": data.time})
    xr.testing.assert_allclose(
        field.eofs.sel(mode=1, drop=True), ((data - data.mean("time")) * score).mean("time", skipna=False)
    )


@pytest.mark.parametrize("lag", [1, 4])
def test_a_linear_dictionary_has_the_singular_values_of_deeptime(lag):
    field = kl.Field(ocean(), weights="cos(lat)", n_eofs=4)
    expected = VAMP(lagtime=lag, epsilon=1e-14).fit_fetch(field.trajectories[0].values).singular_values
    assert np.allclose(linear_sigma(field.trajectories, lag)[1:], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("case", "options"), [("all cells", {}), ("three EOFs", {"weights": "cos(lat)", "n_eofs": 3})], ids=lambda x: str(x)
)
@pytest.mark.parametrize("longitudes", [slice(None), [0, 2, 3]], ids=["with land", "without land"])
def test_a_linear_dictionary_has_the_eigenvalues_of_the_patterns_of_xeofs(case, options, longitudes):
    stored, grid = json.loads(xeofs_pop.PATH.read_text()), xeofs_pop.masked_grid()
    assert float(grid.sum()) == pytest.approx(stored["sum"], rel=1e-14)
    states = kl.Field(grid.isel(lon=longitudes), **options).trajectories[0]
    anomalies = (states - states.mean("time")).values
    spectrum = koopman_spectrum(estimate_moments(lambda x: x, lambda x: x, kl.lagged_pairs(anomalies)))
    expected = np.array([complex(*value) for value in stored[case]])
    for name in ("eigenvalues", "edmd_eigenvalues"):
        assert np.allclose(np.sort_complex(spectrum[name].values), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_eofs", [None, 3])
def test_masked_cells_change_nothing(n_eofs):
    data = ocean()
    ocean_only = data.isel(lon=[0, 2, 3])
    a, b = (kl.Field(d, weights="cos(lat)", n_eofs=n_eofs) for d in (data, ocean_only))
    assert np.allclose(a.trajectories[0].values, b.trajectories[0].values, rtol=0, atol=1e-12)
    assert np.allclose(linear_sigma(a.trajectories), linear_sigma(b.trajectories), rtol=0, atol=1e-12)
    maps = a.maps(np.eye(a.trajectories[0].shape[1])[:2])
    assert maps.sel(lon=90).isnull().all()
    assert maps.sel(lon=[0, 180, 270]).notnull().all()


def test_a_calendar_of_months_is_known():
    estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(kl.Field(ocean(), n_eofs=3))
    assert (estimator.clock.dt, estimator.clock.time_unit) == (1.0, "month")
    years = kl.lagged_pairs(kl.Field(ocean(), n_eofs=3), time_unit="year").clock
    assert years.dt == pytest.approx(1 / 12)


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_calendars_of_models(calendar):
    pytest.importorskip("cftime")
    times = xr.date_range("2000-01-16", periods=36, freq="MS", calendar=calendar, use_cftime=True)
    clock = kl.lagged_pairs(kl.Field(ocean(36, times), n_eofs=2)).clock
    assert (clock.dt, clock.time_unit) == (1.0, "month")


def test_gaps_in_time_and_missing_frames_cut_trajectories():
    data = ocean(60)
    gappy = data.isel(time=[*range(20), *range(25, 60)]).copy()
    gappy[40] = np.nan
    field = kl.Field(gappy, n_eofs=2)
    assert [len(t) for t in field.trajectories] == [20, 20, 14]
    pairs = kl.lagged_pairs(field, lag=2)
    assert pairs.n_pairs == 18 + 18 + 12
    assert pairs.clock.time_unit == "month"
    series = field.series(lambda x: x.values)
    assert series.sizes == {"time": 55, "mode": 2}
    assert np.flatnonzero(series.isnull().any("mode")).tolist() == [40]
    assert [len(t) for t in kl.Field(gappy, n_eofs=2, min_length=15).trajectories] == [20, 20]


def test_delays_stand_beside_each_frame():
    field = kl.Field(ocean(50), n_eofs=2, delays=3)
    plain = kl.Field(ocean(50), n_eofs=2).trajectories[0].values
    states = field.trajectories[0]
    assert states.shape == (47, 8)
    assert np.array_equal(states.values[:, :2], plain[3:])
    assert np.array_equal(states.values[:, 6:], plain[:-3])
    assert states.coordinate.values[-1] == "eof 2, 3 earlier"
    assert states.time.values[0] == MONTHS[3]
    xr.testing.assert_allclose(field.fields(states.values), kl.Field(ocean(50), n_eofs=2).fields(plain[3:]))


def test_members_are_trajectories():
    both = xr.concat([ocean(40, seed=0), ocean(40, seed=1)], dim="member")
    field = kl.Field(both.transpose("lat", "time", "member", "lon"), members="member", n_eofs=2)
    assert [t.shape for t in field.trajectories] == [(40, 2)] * 2
    assert field.series(lambda x: x.values).dims == ("member", "time", "mode")


def test_several_variables_count_in_units_of_their_own():
    sst, depth = ocean(), 1e4 * ocean(seed=1).isel(lat=0, drop=True).rename("depth")
    field = kl.Field(xr.Dataset({"sst": sst, "depth": depth}), n_eofs=4)
    again = kl.Field(xr.Dataset({"sst": sst, "depth": depth * 7 - 3}), n_eofs=4)
    assert np.allclose(field.trajectories[0], again.trajectories[0], rtol=1e-9, atol=1e-9)
    assert field.eofs["sst"].dims == ("mode", "lat", "lon")
    assert field.eofs["depth"].dims == ("mode", "lon")
    assert np.allclose(again.eofs["depth"], 7 * field.eofs["depth"], equal_nan=True)


# ---- labels come back ------------------------------------------------------------------------------------------------


def test_states_are_the_fields_again():
    data = ocean()
    everything = kl.Field(data, weights="cos(lat)")
    xr.testing.assert_allclose(everything.fields(everything.trajectories[0].rename(coordinate="observable")), data)
    eofs = kl.Field(data, weights="cos(lat)", n_eofs=9)  # as many as there are cells
    xr.testing.assert_allclose(eofs.fields(eofs.trajectories[0]), data)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


HALF = ocean().where((ocean().time.dt.year > 1990) | (ocean().lat > 0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kl.Field(ocean().values), TypeError, "data must be a labelled DataArray or Dataset; got ndarray"),
        (lambda: kl.Field(xr.Dataset()), ValueError, "data must hold at least one variable"),
        (lambda: kl.Field(ocean(), time="t"), ValueError, r"time must name a dimension of sst, .* \('time', 'lat'"),
        (lambda: kl.Field(ocean(), members="run"), ValueError, r"members must name a dimension of sst, .*; got 'run'"),
        (lambda: kl.Field(ocean(), members=1), TypeError, "members must be a text; got 1"),
        (lambda: kl.Field(ocean() * 1j), TypeError, "data must hold real numbers; sst are of dtype complex128"),
        (lambda: kl.Field(ocean() * 1e200), ValueError, "data must be below"),
        (lambda: kl.Field(ocean()[:0]), ValueError, "data must have entries; sst have sizes"),
        (lambda: kl.Field(ocean(), weights=np.ones(2)), ValueError, "weights must be .* got an array of shape"),
        (lambda: kl.Field(ocean(), weights=ocean()[0] * 1j), TypeError, "weights must be real numbers"),
        (lambda: kl.Field(ocean(), weights=-np.abs(ocean()[0])), ValueError, "weights must be positive wherever"),
        (lambda: kl.Field(ocean(), delays=10**9), ValueError, "data are too short: .* delays=1000000000"),
        (lambda: kl.Field(HALF), ValueError, "data sst miss 6 cells at some times only, .*interpolate_na"),
        (lambda: kl.Field(ocean() * np.nan), ValueError, "data hold no frame with a number in it"),
        (lambda: kl.Field(ocean(), weights="area"), ValueError, "weights must be .* or a DataArray; got 'area'"),
        (lambda: kl.Field(ocean().rename(lat="y"), weights="cos(lat)"), ValueError, "needs a coordinate called lat"),
        (lambda: kl.Field(ocean().assign_coords(lat=LAT * 9), weights="cos(lat)"), ValueError, "lat must lie between"),
        (lambda: kl.Field(ocean(), weights=ocean().isel(lat=0, lon=0)), ValueError, "weights must lie along"),
        (lambda: kl.Field(ocean(), weights=0 * ocean()[0].fillna(0)), ValueError, "weights must be positive wherever"),
        (lambda: kl.Field(ocean(), n_eofs=0), ValueError, "n_eofs must be positive; got 0"),
        (lambda: kl.Field(ocean(), n_eofs=10), ValueError, "n_eofs=10 is more than 360 frames of 9 cells can give"),
        (lambda: kl.Field(ocean(), delays=-1), ValueError, "delays must not be negative; got -1"),
        (lambda: kl.Field(ocean(), min_length=0), ValueError, "min_length must be positive; got 0"),
        (lambda: kl.Field(ocean(), members="time"), ValueError, "members must be another dimension than time"),
        (lambda: kl.Field(ocean(), n_eofs=2).series(3), TypeError, "functions must be a function of states"),
        (lambda: kl.Field(ocean()).series(lambda x: [[np.nan]] * 360), ValueError, "functions must be finite"),
        (lambda: kl.Field(ocean(), n_eofs=2).series(len), ValueError, "functions must give .360, n_modes."),
        (lambda: kl.Field(ocean(5), delays=5), ValueError, "data are too short: .* delays=5"),
        (lambda: kl.Field(ocean(), n_eofs=2).maps(np.ones((2, 3))), ValueError, r"values must have 2 coordinates last"),
        (lambda: kl.Field(ocean(), n_eofs=2).maps(np.ones((2, 2, 2))), ValueError, "values must be .n, 2., or"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_time_axis_that_begins_again_cuts_trajectories_and_one_that_falls_is_refused():
    values = np.random.default_rng(0).normal(size=(60, 3))
    again = xr.DataArray(values, dims=("time", "x"), coords={"time": np.tile(np.arange(30.0), 2)})
    assert [len(t) for t in kl.Field(again).trajectories] == [30, 30]
    with pytest.raises(ValueError, match=r"times that increase; got 59.0, 58.0, \.\.\. Sort them by time"):
        kl.Field(again.assign_coords(time=np.arange(60.0)[::-1]))


def test_series_of_whole_numbers_have_gaps():
    data = ocean().where(ocean().time != ocean().time[5])
    found = kl.Field(data, n_eofs=2).series(lambda x: np.ones((len(x), 1), dtype=int))
    assert np.isnan(found.values[5]).all()
    assert found.sum() == len(data.time) - 1


def test_a_rank_that_is_not_there_is_told():
    one = ocean().isel(lat=1, lon=[0]).expand_dims(copy=3, axis=-1)
    with pytest.raises(ValueError, match="n_eofs=2 is more than the 1 that the data vary along"):
        kl.Field(one, n_eofs=2)
