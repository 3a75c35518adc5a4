"""Principal Oscillation Patterns of a small grid with land as xeofs finds them: what `test_data_fields` compares with.

xeofs is no package of the tests. In an environment of its own, `pip install xeofs`, then `python tests/xeofs_pop.py`
writes `tests/data/xeofs_pop.json`. POPs are the eigenvalues of C_1 C_0^-1. For ours to be equal

- the anomalies must be from the mean over all frames, and the dictionary must be the anomalies alone: with a constant
  beside them the two ends of the lag have means of their own, which differ from it by one frame in n;
- the cells must be the same, and where EOFs are taken the same leading ones: those of anomalies times
  sqrt(cos(lat)), none of them standardised;
- the covariance must have full rank, for xeofs inverts it.
"""

import json
import pathlib

import numpy as np
import xarray as xr

PATH = pathlib.Path(__file__).parent / "data" / "xeofs_pop.json"
# Of POP: on all cells of sea, and on three EOFs.
CASES = {
    "all cells": {"use_pca": False},
    "three EOFs": {"use_pca": True, "n_pca_modes": 3, "use_coslat": True},
}


def masked_grid() -> xr.DataArray:
    """Three damped waves on (time, lat, lon) = (240, 3, 4) with weather upon them, and land at lon 90."""
    rng = np.random.default_rng(7)
    lat, lon = np.array([-60.0, 0.0, 45.0]), np.array([0.0, 90.0, 180.0, 270.0])
    patterns = rng.normal(size=(3, 2, lat.size, lon.size))
    values = 280 + 0.5 * rng.normal(size=(240, lat.size, lon.size))
    for pattern, turn in zip(patterns, (0.96 * np.exp(0.3j), 0.9 * np.exp(0.8j), 0.8), strict=True):
        z = np.zeros(240, dtype=complex)
        for t in range(1, 240):
            z[t] = turn * z[t - 1] + rng.normal() + 1j * rng.normal()
        values += z.real[:, None, None] * pattern[0] + z.imag[:, None, None] * pattern[1]
    grid = xr.DataArray(values, dims=("time", "lat", "lon"), coords={"time": np.arange(240), "lat": lat, "lon": lon})
    return grid.where(grid.lon != 90)


def main() -> None:
    """Write the eigenvalues of every case, with the version that made them."""
    import xeofs

    found = {"xeofs": xeofs.__version__, "numpy": np.__version__, "sum": float(masked_grid().sum())}
    for name, options in CASES.items():
        model = xeofs.single.POP(n_modes=100, solver="full", **options).fit(masked_grid(), "time")
        values = np.sort_complex(model.eigenvalues().values)
        found[name] = [[value.real, value.imag] for value in values]
    PATH.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
