import runpy
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from koopman_lora.clock import Clock

ROOT = Path(__file__).parents[1] / "datasets"
NAMES = [
    "four_well_1d",
    "four_well_2d",
    "markov_chain",
    "noisy_logistic_map",
    "noisy_rotation",
    "ornstein_uhlenbeck",
]
# The logistic map amplifies the last digit of another processor's arcsin until trajectories part.
COMPARABLE_FRAMES = {"noisy_logistic_map": 20}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recipe(name):
    return runpy.run_path(str(ROOT / name / "prepare.py"))["RECIPE"]


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    recipe.write(folder)
    return folder


def load(path):
    return xr.load_dataset(path, engine="h5netcdf")


def test_every_folder_is_tested():
    assert sorted(path.parent.name for path in ROOT.glob("*/prepare.py")) == NAMES


def test_stored_trajectories_are_what_the_script_makes(name, made):
    stored, fresh = load(ROOT / name / "trajectories.nc"), load(made / "trajectories.nc")
    assert stored.state.shape == fresh.state.shape
    assert stored.state.attrs == fresh.state.attrs
    frames = {"time": slice(0, COMPARABLE_FRAMES.get(name))}
    xr.testing.assert_allclose(stored.isel(frames), fresh.isel(frames), rtol=1e-9, atol=1e-6)


def test_stored_reference_is_what_the_script_computes(name, made):
    stored, fresh = load(ROOT / name / "reference.nc"), load(made / "reference.nc")
    assert stored.attrs == fresh.attrs
    xr.testing.assert_allclose(stored, fresh, rtol=1e-6, atol=1e-9)


def test_stored_reference_counts_modes_from_one_and_agrees_with_the_system(name, recipe):
    stored = load(ROOT / name / "reference.nc")
    spectrum = recipe.system.spectrum(lag=recipe.lag, n_modes=recipe.n_modes)
    assert stored.mode.values.tolist() == list(range(1, recipe.n_modes + 1))
    assert Clock.from_attrs(stored.attrs) == spectrum.clock
    tolerance = {"rtol": 1e-6, "atol": 1e-9}
    np.testing.assert_allclose(stored.singular_values, spectrum.singular_values, **tolerance)
    np.testing.assert_allclose(
        stored.eigenvalues_real + 1j * stored.eigenvalues_imag, spectrum.eigenvalues, **tolerance
    )
    np.testing.assert_allclose(stored.timescales, spectrum.clock.timescales(spectrum.eigenvalues), **tolerance)


def test_writing_twice_gives_the_same_values(recipe, made, tmp_path):
    recipe.write(tmp_path)
    for file in ("trajectories.nc", "reference.nc"):
        xr.testing.assert_identical(load(made / file), load(tmp_path / file))


def test_files_are_small_finite_and_labelled(name):
    stored = load(ROOT / name / "trajectories.nc")
    assert sum(path.stat().st_size for path in (ROOT / name).iterdir() if path.is_file()) < 400_000
    assert stored.state.dims == ("trajectory", "time", "coordinate")
    assert np.isfinite(stored.state).all()
    assert {"dt", "time_unit", "units", "system", "parameters", "seed"} <= stored.state.attrs.keys()


def test_card_tells_the_spectrum_and_how_to_reproduce(name, recipe):
    card = (ROOT / name / "README.md").read_text()
    assert recipe.spectrum_table() in card
    assert f"python datasets/{name}/prepare.py" in card
    assert "MIT" in card
    assert f"]({name}/README.md)" in (ROOT / "README.md").read_text()
