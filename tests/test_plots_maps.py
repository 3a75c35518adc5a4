import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from koopman_lora.plots import plot_maps

RNG = np.random.default_rng(0)
PATTERNS = xr.DataArray(
    RNG.normal(size=(3, 4, 6)),
    dims=("mode", "lat", "lon"),
    coords={
        "mode": [2, 3, 5],
        "lat": ("lat", [-30.0, -10, 10, 30], {"units": "degrees_north"}),
        "lon": np.arange(6) * 10,
    },
    name="sst",
    attrs={"units": "K"},
)
LAND = (PATTERNS.lat > 0) & (PATTERNS.lon < 20)


def drawn(ax):
    """What a panel shows (lat, lon), masked where nothing is drawn."""
    return np.ma.masked_invalid(ax.collections[0].get_array()).reshape(4, 6)


def test_every_pattern_is_drawn_with_land_left_out():
    for ax, mode in zip(plot_maps(PATTERNS.where(~LAND)), [2, 3, 5], strict=True):
        assert ax.get_title() == f"mode {mode}"
        assert np.array_equal(drawn(ax).mask, LAND.transpose("lat", "lon"))
        np.testing.assert_array_equal(drawn(ax).compressed(), PATTERNS.sel(mode=mode).values[~LAND.values])
        low, high = ax.collections[0].get_clim()
        assert high == -low == np.abs(PATTERNS.sel(mode=mode).where(~LAND)).max()


def test_axes_and_colours_have_their_units():
    [ax] = plot_maps(PATTERNS, modes=[3])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lon", "lat (degrees_north)")
    assert ax.collections[0].colorbar.ax.get_ylabel() == "sst (K)"


def test_complex_patterns_are_two_maps_on_one_scale_and_land_is_in_neither():
    pattern = (PATTERNS + 3j * PATTERNS.roll(lon=1, roll_coords=False)).where(~LAND)
    pattern.values.imag[np.isnan(pattern.values)] = 0.0
    real, imaginary = plot_maps(pattern, modes=[2])
    assert [ax.get_title() for ax in (real, imaginary)] == ["mode 2, real part", "mode 2, imaginary part"]
    for ax, part in ((real, pattern.values.real), (imaginary, pattern.values.imag)):
        assert np.array_equal(drawn(ax).mask, LAND.transpose("lat", "lon"))
        np.testing.assert_array_equal(drawn(ax).compressed(), part[0][~LAND.values])
    assert real.collections[0].get_clim() == imaginary.collections[0].get_clim()


def test_a_real_pattern_among_complex_ones_is_one_map():
    mixed = PATTERNS + xr.DataArray([1e-17j, 1j, 0j], dims="mode")
    assert [ax.get_title().split(", ")[0] for ax in plot_maps(mixed)] == ["mode 2", "mode 3", "mode 3", "mode 5"]


def test_patterns_without_numbers_of_modes_are_counted_from_one():
    assert [ax.get_title() for ax in plot_maps(PATTERNS.drop_vars("mode"))] == ["mode 1", "mode 2", "mode 3"]


def test_names_of_cells_are_drawn_at_their_position():
    [ax] = plot_maps(PATTERNS.assign_coords(lon=list("abcdef")), modes=[2])
    assert ax.get_xlim() == (-0.5, 5.5)


@pytest.mark.parametrize(
    ("maps", "settings", "message"),
    [
        (PATTERNS.sel(mode=2), {}, r"maps must have three dimensions.*got \('lat', 'lon'\)"),
        (PATTERNS.isel(lat=[]), {}, "maps must hold at least one pattern and cell"),
        (PATTERNS, {"modes": [4]}, r"modes must be among \[2, 3, 5\]; got \[4\]"),
        (PATTERNS * np.nan, {}, "maps must hold numbers; those of mode 2 are all missing"),
        (PATTERNS, {"axes": []}, "axes must be one for each of 3 maps; got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(maps, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_maps(maps, **settings)


def test_maps_of_a_field_are_drawn_on_given_axes():
    axes = list(plt.subplots(1, 1, squeeze=False)[1].ravel())
    assert list(plot_maps(PATTERNS, modes=[5], axes=axes)) == axes
