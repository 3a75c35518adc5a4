import dataclasses
import json
import runpy
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sklearn.datasets import load_digits

import koopman_lora as kl
from koopman_lora.clock import Clock

ROOT = Path(__file__).parents[1] / "datasets"
NAMES = [
    "four_well_1d",
    "four_well_2d",
    "markov_chain",
    "mueller_brown",
    "noisy_logistic_map",
    "noisy_rotation",
    "ornstein_uhlenbeck",
]
ALANINE, DIGITS = "alanine_dipeptide", "ordered_digits"
# name: trajectories, frames and coordinates, dt, unit of time, unit of the values
WITHOUT_REFERENCE = {
    "ecg": ((1, 108_000, 1), 1 / 360, "s", "mV"),
    "elnino": ((1, 732, 1), 1.0, "month", "degree_Celsius"),
    "lorenz_96": ((4, 1000, 40), 0.05, "1", "1"),
    "stock_indices": ((1, 1860, 4), 1.0, "trading day", "1"),
    "sunspots": ((1, 3126, 1), 1.0, "month", "1"),
}
ALL = sorted([*NAMES, ALANINE, DIGITS, *WITHOUT_REFERENCE])
# The logistic map amplifies the last digit of another processor's arcsin until trajectories part.
COMPARABLE_FRAMES = {"noisy_logistic_map": 20}
# Where all of them take many seconds, only the first frames are made again: they do not depend on how many follow.
MADE_FRAMES = {"mueller_brown": 40}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recipe(name):
    whole = runpy.run_path(str(ROOT / name / "prepare.py"))["RECIPE"]
    return dataclasses.replace(whole, n_steps=MADE_FRAMES.get(name, whole.n_steps))


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    recipe.write(folder)
    return folder


def load(path):
    return xr.load_dataset(path, engine="h5netcdf")


def test_a_wheel_carries_every_data_set_but_those_under_another_licence():
    build = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    carried = {*ALL, "README.md", "_prepare.py"} - {"stock_indices"}
    assert build["wheel"]["force-include"] == {f"datasets/{name}": f"koopman_lora/_datasets/{name}" for name in carried}
    assert build["sdist"]["exclude"] == ["datasets/stock_indices"]


def test_every_folder_is_tested():
    assert sorted(path.parent.name for path in ROOT.glob("*/prepare.py")) == ALL


@pytest.mark.slow
def test_stored_trajectories_are_what_the_script_makes(name, made):
    stored, fresh = load(ROOT / name / "trajectories.nc"), load(made / "trajectories.nc")
    stored = stored.isel(time=slice(0, MADE_FRAMES.get(name)))
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


@pytest.mark.slow
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


# ---- kl.datasets -----------------------------------------------------------------------------------------------------


def test_all_data_sets_are_loaded_by_name(name):
    assert kl.datasets.names() == ALL
    xr.testing.assert_identical(kl.datasets.load(name), load(ROOT / name / "trajectories.nc").state)
    xr.testing.assert_identical(kl.datasets.reference(name), load(ROOT / name / "reference.nc"))
    assert kl.datasets.card(name) == (ROOT / name / "README.md").read_text(encoding="utf-8")


def test_a_loaded_data_set_knows_its_clock():
    pairs = kl.lagged_pairs(kl.datasets.load("four_well_2d"), lag=2)
    assert pairs.clock == kl.Clock(2, 0.1, "ps")
    assert pairs.coordinate_names == ("x", "y")


def test_data_sets_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"name must be one of 'alanine_dipeptide', 'ecg', .*; got 'alanine'"):
        kl.datasets.load("alanine")
    with pytest.raises(ValueError, match="variable must be one of 'state'; got 'positions'"):
        kl.datasets.load("four_well_1d", "positions")
    with pytest.raises(
        ValueError, match="name='alanine_dipeptide' has no known spectrum; these have one: four_well_1d"
    ):
        kl.datasets.reference(ALANINE)


def test_an_installed_package_carries_them_inside(monkeypatch, tmp_path):
    """A wheel puts the folder `datasets` into the package; the whole way is taken where packages are built."""
    shutil.copytree(ROOT / "markov_chain", tmp_path / "koopman_lora" / "_datasets" / "markov_chain")
    monkeypatch.setattr(kl.datasets, "__file__", str(tmp_path / "koopman_lora" / "datasets.py"))
    assert kl.datasets.names() == ["markov_chain"]
    assert kl.datasets.folder("markov_chain").is_relative_to(tmp_path)


# ---- measured, or without a known spectrum ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_data_without_a_reference_have_their_units_and_a_card(name):
    shape, dt, time_unit, unit = WITHOUT_REFERENCE[name]
    data, card = kl.datasets.load(name), kl.datasets.card(name)
    assert data.shape == shape
    assert data.dims == ("trajectory", "time", "coordinate")
    assert (data.attrs["time_unit"], data.attrs["units"]) == (time_unit, unit)
    assert data.attrs["dt"] == pytest.approx(dt)
    assert np.isfinite(data).all()
    assert sum(path.stat().st_size for path in (ROOT / name).iterdir() if path.is_file()) < 400_000
    assert f"python datasets/{name}/prepare.py" in card
    assert "**Licence**" in card
    assert f"]({name}/README.md)" in (ROOT / "README.md").read_text()


def test_the_digits_come_in_order_and_none_twice():
    data = kl.datasets.load(DIGITS)
    made = runpy.run_path(str(ROOT / DIGITS / "prepare.py"))["video"]()
    assert np.array_equal(data.values, made[None])
    images, known = data.values[0].reshape(-1, 64), load_digits()
    by_image = dict(zip(map(bytes, (known.data / 16)), known.target, strict=True))
    assert [by_image[bytes(image)] for image in images] == [t % 10 for t in range(1740)]
    assert len(np.unique(images, axis=0)) == len(images)
    assert (data.attrs["dt"], data.attrs["time_unit"], data.attrs["units"]) == (1, "frame", "1")
    card = kl.datasets.card(DIGITS)
    assert f"python datasets/{DIGITS}/prepare.py" in card
    assert "**Licence**" in card
    assert f"]({DIGITS}/README.md)" in (ROOT / "README.md").read_text()


def test_the_digits_go_round_in_ten():
    """Linear functions of the pixels know the next digit in part, and turn by a tenth of the circle with each frame."""
    pairs = kl.lagged_pairs(kl.datasets.load(DIGITS))
    moments = kl.estimate_moments(kl.flat_state, kl.flat_state, pairs, observables=kl.flat_state)
    found = kl.eigen_analysis(moments).eigenvalues.values
    leading = found[np.argsort(-np.abs(found))][:10]
    turns = np.sort((np.angle(leading) + 0.1) % (2 * np.pi) - 0.1) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.arange(10) / 10, atol=0.01)
    assert np.abs(leading).min() > 0.5 > 0.3 > np.sort(np.abs(found))[-11]


def test_lorenz_96_follows_its_equation_and_balances_its_energy():
    x = kl.datasets.load("lorenz_96").values
    site = np.arange(40)
    slope = (x[..., (site + 1) % 40] - x[..., site - 2]) * x[..., site - 1] - x + 8
    by_simpson = 0.05 / 3 * (slope[:, :-2] + 4 * slope[:, 1:-1] + slope[:, 2:])
    moved = x[:, 2:] - x[:, :-2]
    assert np.abs(moved - by_simpson).mean() < 0.005 * np.abs(moved).mean()
    assert np.mean(x**2) / np.mean(x) == pytest.approx(8, rel=1e-3)  # advection neither makes nor takes energy


def test_measured_series_show_what_they_are_known_for():
    """The year off Peru; the solar cycle of eleven years; a pulse between 60 and 140 a minute."""
    temperature = kl.datasets.load("elnino").values.reshape(-1, 12).mean(axis=0)
    assert (temperature.argmax() + 1, temperature.argmin() + 1) == (3, 9)  # March and September
    last = kl.datasets.load("sunspots").values[0, -6:, 0]
    np.testing.assert_allclose(last, [1.5, 1.4, 0.7, 1.2, 2.9, 2.6])
    assert 10 < period(kl.datasets.load("sunspots").values[0, :, 0], 80, 180) / 12 < 11.5
    prices = kl.datasets.load("stock_indices").values[0]
    np.testing.assert_allclose(prices[[0, -1]], [[1628.75, 1678.1, 1772.8, 2443.6], [5473.72, 7676.3, 3995.0, 5455.0]])
    returns = np.diff(np.log(prices), axis=0)
    assert np.abs(np.corrcoef(returns[1:, 0], returns[:-1, 0])[0, 1]) < 2 / np.sqrt(len(returns))  # nothing to predict
    beats = kl.datasets.load("ecg").values[0, :, 0]
    assert 60 < 60 * 360 / period(beats, 150, 400) < 140


def period(x, least, most):
    """Lag of the largest autocorrelation between two lags, in frames."""
    x = x - x.mean()
    return least + int(np.argmax([np.mean(x[k:] * x[:-k]) for k in range(least, most)]))


# ---- alanine dipeptide -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alanine():
    return load(ROOT / ALANINE / "trajectories.nc")


def dihedral(x):
    """Dihedral angles in degrees of four atoms (..., 4, 3), as IUPAC counts them."""
    a, b, c = np.moveaxis(np.diff(x, axis=-2), -2, 0)
    m, n = np.cross(a, b), np.cross(b, c)
    size = np.degrees(np.arccos((m * n).sum(-1) / np.linalg.norm(m, axis=-1) / np.linalg.norm(n, axis=-1)))
    return np.where((m * c).sum(-1) < 0, -size, size)


def test_alanine_angles_are_those_of_its_positions(alanine):
    for coordinate, atoms in (
        ("phi", ["ACE C", "ALA N", "ALA CA", "ALA C"]),
        ("psi", ["ALA N", "ALA CA", "ALA C", "NME N"]),
    ):
        turned = dihedral(alanine.positions.sel(atom=atoms).values) - alanine.state.sel(coordinate=coordinate)
        assert np.abs((turned + 180) % 360 - 180).max() < 0.5  # positions are rounded to 1e-4 nm


def test_alanine_is_the_molecule_that_it_should_be(alanine):
    """Bonds have the lengths of the force field, give or take what 500 K do, CA stays an L centre, bonds stay trans."""
    x = {str(name): alanine.positions.sel(atom=name).values for name in alanine.atom.values}
    for a, b, length in (("ALA N", "ALA CA", 0.1449), ("ALA CA", "ALA CB", 0.1526), ("ALA C", "ALA O", 0.1229)):
        bond = np.linalg.norm(x[a] - x[b], axis=-1)
        assert bond.mean() == pytest.approx(length, abs=0.004)
        assert 0.002 < bond.std() < 0.007
    sides = [x[name] - x["ALA CA"] for name in ("ALA N", "ALA C", "ALA CB")]
    assert (np.linalg.det(np.stack(sides, axis=-2)) > 0).all()
    omega = dihedral(np.stack([x[name] for name in ("ACE CH3", "ACE C", "ALA N", "ALA CA")], axis=-2))
    assert np.abs(omega).min() > 90


def test_alanine_crosses_between_the_basins_of_phi_often_enough(alanine):
    phi = alanine.state.sel(coordinate="phi").values
    cores = np.select([(phi > 20) & (phi < 120), (phi < -30) | (phi > 150)], [1, 0], -1)
    both = [kl.molecules.transition_frames(list(cores), *way) for way in ((0, 1), (1, 0))]
    assert [len(crossings) for crossings in both] == [13, 18]
    assert "seen 31 times" in kl.datasets.card(ALANINE)
    assert set(cores[:, 0]) == {0, 1}  # some begin on either side


def test_alanine_is_small_and_says_how_it_was_made(alanine):
    files = [path for path in (ROOT / ALANINE).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert sorted(path.name for path in files) == ["README.md", "prepare.py", "topology.pdb", "trajectories.nc"]
    assert alanine.state.sizes == {"trajectory": 12, "time": 2000, "coordinate": 2}
    for variable in alanine.values():
        assert np.isfinite(variable).all()
        assert {"dt", "time_unit", "units", "system", "parameters", "seed"} <= variable.attrs.keys()
    stated = json.loads(alanine.state.parameters)
    settings = (ROOT / ALANINE / "prepare.py").read_text(encoding="utf-8")
    assert all(f"    {key}: {type(value).__name__} = " in settings for key, value in stated.items())
    card = kl.datasets.card(ALANINE)
    assert f"python datasets/{ALANINE}/prepare.py" in card
    assert "MIT" in card
    assert f"]({ALANINE}/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["angles", "distances"])
def test_the_slowest_process_of_alanine_is_the_phi_transition(alanine, of):
    """One seed of benchmarks/alanine.py."""
    benchmark = runpy.run_path(str(ROOT.parent / "benchmarks" / "alanine.py"))
    data, settings = benchmark["inputs"]()[of]
    sign = np.sign(alanine.state.sel(coordinate="phi").values.ravel())
    found = benchmark["slowest_process"](data, sign, 0, settings)
    assert found.singular_function > 0.95
    assert found.eigenfunction > 0.95
    assert benchmark["overlaps"](found.interval, benchmark["markov_timescale"](alanine.state, benchmark["LAG"])[1])
