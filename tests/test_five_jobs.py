"""Five jobs from five fields, each in at most ten lines as its people would write them, with known answers.

The lines are those of a function's body here, or those that stand in the documents.
"""

import ast
import glob
import inspect
import pathlib
import re
import shlex
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

import koopman_lora as kl
from koopman_lora.cli import main
from koopman_lora.svd.orthogonality import orthogonality_error

ROOT = pathlib.Path(__file__).parents[1]


def body(job):
    """The lines that the user writes: a function without its head and without what it hands to the test."""
    (function,) = ast.parse(inspect.getsource(job)).body
    lines = inspect.getsource(job).splitlines()[function.body[0].lineno - 1 : function.body[-1].lineno - 1]
    return [line for line in lines if line.strip()]


def written(text):
    return [line for line in text.splitlines() if line.strip()]


# ---- molecular dynamics: angles of several runs -> states as PDB -----------------------------------------------------


def phi_is_positive(path):
    """Whether structures are in the basin of phi > 0; that of phi < 0 reaches over the seam, down to 130 degrees."""
    mdtraj = pytest.importorskip("mdtraj")
    degrees = np.degrees(mdtraj.compute_phi(mdtraj.load(path))[1].ravel())
    return (degrees > 0) & (degrees < 130)


@pytest.mark.slow
def test_angles_of_several_runs_to_states_as_pdb(tmp_path, monkeypatch):
    """The lines of the README, run on the shipped molecule written as XTC."""
    mdtraj = pytest.importorskip("mdtraj")
    monkeypatch.chdir(tmp_path)
    shutil.copy(kl.datasets.folder("alanine_dipeptide") / "topology.pdb", "molecule.pdb")
    for i, xyz in enumerate(kl.datasets.load("alanine_dipeptide", "positions").values):
        frames = mdtraj.Trajectory(xyz, mdtraj.load_topology("molecule.pdb"), time=0.5 * np.arange(len(xyz)))
        frames.save(f"run{i:02d}.xtc")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```\n(files = .*?)```", readme, flags=re.DOTALL)
    assert len(written(lines)) <= 10
    exec(compile(lines, "README.md", "exec"), {"kl": kl, "np": np, "glob": glob})
    for state, is_positive in ((0, False), (1, True)):  # the larger state is that of phi < 0
        found = phi_is_positive(f"state{state}.pdb")
        assert len(found) == 20
        assert (found == is_positive).all()
    along = phi_is_positive("slowest.pdb")
    assert along[0] != along[-1]


# ---- climate: sea surface temperature with land -> maps, period in years ---------------------------------------------

LAT, LON = np.array([-60.0, 0.0, 45.0]), np.array([0.0, 90.0, 180.0, 270.0])
WAVE = np.cos(np.deg2rad(LAT))[:, None] * np.exp(-1j * np.deg2rad(LON))


def sea_surface_temperature():
    """A wave that goes around the globe in four years, over thirty years of months; land at lon 90."""
    rng, n = np.random.default_rng(0), 360
    phase = 2 * np.pi * np.arange(n) / 48 + np.cumsum(0.1 * rng.normal(size=n))
    values = 3 * (WAVE * np.exp(1j * phase)[:, None, None]).real + 0.3 * rng.normal(size=(n, *WAVE.shape)) + 280
    months = pd.date_range("1980-01-16", periods=n, freq="MS") + pd.Timedelta(days=15)
    data = xr.DataArray(values, dims=("time", "lat", "lon"), coords={"time": months, "lat": LAT, "lon": LON})
    return data.where(data.lon != 90)


def climate(sst):
    field = kl.Field(sst, weights="cos(lat)", n_eofs=3)
    estimator = kl.KoopmanLoRA(n_modes=3, time_unit="year", seed=0).fit(field)
    modes = estimator.koopman_modes()
    maps = field.maps(modes["koopman_modes"])  # (mode, lat, lon), NaN on land
    series = field.series(estimator.singular_functions)  # (time, mode)
    ahead = field.fields(estimator.forecast(field.last, steps=12)["forecast"])  # (step, sample, lat, lon)
    period = 1 / abs(modes["frequencies"][1].item())  # in years
    return maps, series, ahead, period


@pytest.mark.slow
def test_from_a_grid_with_land_to_maps_series_forecast_and_a_period_in_years():
    assert len(body(climate)) <= 10
    sst = sea_surface_temperature()
    maps, series, ahead, period = climate(sst)
    assert period == pytest.approx(4.0, rel=0.1)
    assert maps.dims == ("mode", "lat", "lon")
    assert np.array_equal(maps.lat, LAT)
    assert np.array_equal(maps.lon, LON)
    assert maps.sel(lon=90).isnull().all()
    found = maps.sel(mode=2).values
    sea = np.isfinite(found)
    assert sea.sum() == 9
    length = np.linalg.norm(WAVE[sea]) * np.linalg.norm(found[sea])
    assert max(abs(np.vdot(w[sea], found[sea])) for w in (WAVE, WAVE.conj())) / length > 0.99
    assert series.time.identical(sst.time)
    assert ahead.sizes["step"] == 12
    assert ahead.sel(lon=90).isnull().all()
    assert abs(ahead.isel(step=0, sample=0) - sst.isel(time=-1)).max() < 1.5


# ---- a training loop of one's own -> spectrum in the right unit ------------------------------------------------------


def own_loop(trajectories):
    pairs = kl.lagged_pairs(trajectories, lag=4, dt=0.5, time_unit="ns")
    loader = DataLoader(pairs, batch_size=300, shuffle=True)
    model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(16,), has_centering=True)
    loss, optimizer = kl.NestedLoRALoss(n_modes=3), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):
        for x, x_next in loader:
            optimizer.zero_grad()
            loss(*model(x, x_next)).backward()
            optimizer.step()
    spectrum = kl.compute_koopman_spectrum(model, loader)
    return spectrum


@pytest.mark.slow
def test_a_loop_of_ones_own_has_its_spectrum_in_the_unit_of_the_data():
    assert len(body(own_loop)) <= 10
    torch.manual_seed(0)
    system = kl.systems.NoisyRotation(omega=2 * np.pi / 12, noise=0.2)  # a turn takes 12 frames of 0.5 ns
    spectrum = own_loop(list(system.simulate(n_trajectories=2, n_steps=1500, seed=0).values))
    assert spectrum.timescales.attrs["units"] == "ns"
    assert float(spectrum.timescales.sel(mode=2)) == pytest.approx(0.5 * 2 / 0.2**2, rel=0.15)
    assert 1 / abs(float(spectrum.frequencies.sel(mode=2))) == pytest.approx(6, rel=0.05)


# ---- a channel that changes slowly -> its singular triples, followed -------------------------------------------------


@pytest.mark.slow
def test_a_channel_is_followed():
    """The lines of docs/matrix_svd.md."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "matrix_svd.md").read_text("utf-8"), flags=re.DOTALL)
    assert len(written(code)) <= 10
    names = {}
    exec(compile(code, "docs/matrix_svd.md", "exec"), names)
    H, svd, history = names["H"], names["svd"], np.array(names["history"])
    U, s, Vh = np.linalg.svd(H)
    np.testing.assert_allclose(history[-1], s[:3], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(U[:, :3].conj() * svd.U_, axis=0)), 1, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(Vh[:3].conj() * svd.Vh_, axis=1)), 1, atol=1e-4)
    assert orthogonality_error(svd.U_) < 1e-12
    assert np.abs(np.diff(history, axis=0)).max() < 0.1 * history.min()  # it changes slowly, and is followed
    assert svd.result_["previous_mode"].values.tolist() == [1, 2, 3]
    assert svd.result_["overlap"].min() > 0.9


# ---- three files on the command line -> table, picture ---------------------------------------------------------------

COMMANDS = """
koopman-lora fit run1.csv run2.csv run3.csv --time-unit h --n-modes 3 --n-epochs 2 --quiet --out fit
koopman-lora spectrum fit --intervals intervals.nc --n-resamples 50
koopman-lora plot fit --what eigenvalues --n-resamples 50 --out eigenvalues.png
"""


@pytest.mark.slow
def test_three_files_on_the_command_line_to_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    assert len(written(COMMANDS)) <= 10
    monkeypatch.chdir(tmp_path)
    system = kl.systems.NoisyRotation(omega=2 * np.pi / 48, noise=0.2)
    for i, run in enumerate(system.simulate(n_trajectories=3, n_steps=1500, seed=1).values, start=1):
        hours = 0.5 * np.arange(len(run))
        pd.DataFrame({"time": hours, "east": run[:, 0], "north": run[:, 1]}).to_csv(f"run{i}.csv", index=False)
    for command in written(COMMANDS):
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0
        if " spectrum " in command:
            table = capsys.readouterr().out.splitlines()
    assert "timescale (h)" in table[0]
    sigma = system.spectrum(1, 3).singular_values
    for line, expected in zip(table[1:4], sigma, strict=True):
        assert float(line.split()[3]) == pytest.approx(expected, abs=0.02)  # canonical
    lower, upper = kl.load_dataset("intervals.nc").timescales_interval.sel(mode=2).values
    assert lower < 0.5 * 2 / 0.2**2 < upper
    assert plt.imread("eigenvalues.png").std() > 0
