"""What prepare scripts share: a system with its reference spectrum, or one series, as small NetCDF files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from koopman_lora._labels import trajectory_array
from koopman_lora.systems import System


@dataclass(frozen=True)
class Recipe:
    """A simulated data set: which system, how much of it, and which reference spectrum goes beside it."""

    system: System
    n_trajectories: int
    n_steps: int
    n_modes: int
    lag: int = 1
    seed: int = 0

    def trajectories(self) -> xr.DataArray:
        """Simulate the trajectories (trajectory, time, coordinate), float64 as simulated."""
        return _without_date(self.system.simulate(self.n_trajectories, self.n_steps, seed=self.seed))

    def reference(self) -> xr.Dataset:
        """Compute the reference spectrum; NetCDF has no complex numbers: eigenvalues become two real variables."""
        dataset = self.system.spectrum(lag=self.lag, n_modes=self.n_modes).to_dataset()
        for name, part in (("eigenvalues_real", np.real), ("eigenvalues_imag", np.imag)):
            dataset[name] = (dataset.eigenvalues.dims, part(dataset.eigenvalues.values), dataset.eigenvalues.attrs)
        dataset.attrs["system"] = type(self.system).__name__
        return _without_date(dataset.drop_vars("eigenvalues"))

    def write(self, folder: Path) -> None:
        """Write trajectories.nc and reference.nc into `folder`."""
        trajectories, reference = self.trajectories(), self.reference()
        compressed = {name: {"zlib": True, "complevel": 9, "shuffle": True} for name in (trajectories.name, "time")}
        trajectories.to_netcdf(folder / "trajectories.nc", engine="h5netcdf", encoding=compressed)
        reference.to_netcdf(folder / "reference.nc", engine="h5netcdf")

    def spectrum_table(self) -> str:
        """Write a Markdown table of the reference spectrum, as it stands in the card."""
        reference = self.reference()
        unit = reference.timescales.attrs["units"]
        lines = [f"| mode | singular value | eigenvalue | timescale ({unit}) |", "|---|---|---|---|"]
        for i, mode in enumerate(reference.mode.values):
            real, imag = float(reference.eigenvalues_real[i]), float(reference.eigenvalues_imag[i])
            eigenvalue = f"{real:.4g}" + (f" {'+' if imag > 0 else '-'} {abs(imag):.4g}i" if abs(imag) > 1e-9 else "")
            sigma, timescale = float(reference.singular_values[i]), float(reference.timescales[i])
            lines.append(f"| {mode} | {sigma:.4g} | {eigenvalue} | {timescale:.4g} |")
        return "\n".join(lines)


def write_steps(
    folder: Path, values: np.ndarray, step: float, *, dt: float, time_unit: str, names: list[str], unit: str, **how: str
) -> None:
    """Write trajectories.nc of values (trajectory, time, coordinate) that come in steps, as whole numbers of these."""
    data = trajectory_array(values, dt=dt, time_unit=time_unit, coordinate_names=names, coordinate_unit=unit, attrs=how)
    bits = 16 if np.abs(values).max() / step < 2**15 - 1 else 32
    packed = {"dtype": f"int{bits}", "_FillValue": -(2 ** (bits - 1)), "scale_factor": step}
    squeezed = {"zlib": True, "complevel": 9, "shuffle": True}
    encoding = {"state": packed | squeezed, "time": squeezed}
    data.to_netcdf(folder / "trajectories.nc", engine="h5netcdf", encoding=encoding)


def _without_date(labelled: xr.DataArray | xr.Dataset) -> xr.DataArray | xr.Dataset:
    """Drop the time of creation, so that the same recipe always writes the same file."""
    attrs = {name: value for name, value in labelled.attrs.items() if name != "created_at"}
    return labelled.drop_attrs(deep=False).assign_attrs(attrs)
