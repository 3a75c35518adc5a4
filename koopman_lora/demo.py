"""The main job from end to end: simulate, fit, compute the spectrum, write results and pictures, print a table."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.io import save_dataset, save_model
from koopman_lora.plots import plot_history, plot_singular_functions, plot_spectrum
from koopman_lora.systems import FourWellLandscape2D, ReferenceSpectrum


def run_demo(out: str | os.PathLike = "runs/demo", progress: bool = True) -> xr.Dataset:
    """Fit the two-dimensional four-well landscape and write everything into the folder `out`.

    Returns
    -------
    Dataset
        The spectrum.

    Raises
    ------
    OSError
        If `out` cannot be written; checked before the work starts.
    """
    folder = prepare_folder(out)
    system = FourWellLandscape2D()
    trajectories = system.simulate(n_trajectories=8, n_steps=5000, seed=0)
    reference = system.spectrum(lag=1, n_modes=8)
    estimator = KoopmanLoRA(n_modes=8, lag=1, seed=0, progress=progress).fit(trajectories)
    save_dataset(trajectories, folder / "trajectories.nc")
    save_model(estimator.model_, folder / "model.safetensors")
    save_dataset(estimator.spectrum_, folder / "spectrum.nc")
    save_dataset(estimator.training_.history, folder / "history.nc")
    _draw(estimator, reference, folder)
    print(spectrum_table(estimator.spectrum_, reference))
    print(f"\ntrajectories, model, spectrum, history and pictures are in {folder}/")
    return estimator.spectrum_


def prepare_folder(out: str | os.PathLike) -> pathlib.Path:
    """Make the folder and check that it can be written.

    Raises
    ------
    OSError
        If it cannot.
    """
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"out={str(out)!r} cannot be written ({error.strerror}); choose another folder.") from error
    return folder


def spectrum_table(spectrum: xr.Dataset, reference: ReferenceSpectrum | None = None) -> str:
    """Readable table of a spectrum: singular values of all kinds, eigenvalue, timescale with its unit.

    Eigenvalues are sorted by modulus on their own; a row pairs numbers of equal rank, not of equal function.
    """
    unit = spectrum.attrs["time_unit"]
    truth = () if reference is None else reference.singular_values
    known = () if reference is None else ("reference",)
    rows = [("mode", "learned", "K_matrix", "canonical", *known, "eigenvalue", f"timescale ({unit})")]
    for i, mode in enumerate(spectrum["mode"].values):
        rows.append(
            (
                str(mode),
                f"{float(spectrum['svals'][i]):.4f}" if "svals" in spectrum else "-",
                f"{float(spectrum['singular_values'][i]):.4f}",
                f"{float(spectrum['canonical_singular_values'][i]):.4f}",
                *[f"{truth[i]:.4f}" if i < len(truth) else "-" for _ in known],
                _complex_text(complex(spectrum["eigenvalues"][i])),
                f"{float(spectrum['timescales'][i]):.4g}",
            )
        )
    return text_table(rows)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as right-aligned columns.

    Examples
    --------
    >>> print(text_table([("mode", "sigma"), ("1", "1.0")]))
    mode  sigma
       1    1.0
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def _complex_text(value: complex) -> str:
    return f"{value.real:.4f}" if abs(value.imag) < 5e-5 else f"{value.real:.4f}{value.imag:+.4f}i"


def _draw(estimator: KoopmanLoRA, reference: ReferenceSpectrum, folder: pathlib.Path) -> None:
    states = estimator.pairs_.x[::4]
    values = estimator.singular_functions(states)
    _save(plot_spectrum(estimator.spectrum_, reference).figure, folder / "spectrum.png")
    _save(plot_history(estimator.training_.history).figure, folder / "history.png")
    names = [f"{name} (nm)" for name in estimator.pairs_.coordinate_names or ("x", "y")]
    axes = plot_singular_functions(states.numpy(), values, coordinate_names=names)
    _save(axes[0].figure, folder / "singular_functions.png")


def _save(figure: Figure, path: pathlib.Path) -> None:
    FigureCanvasAgg(figure).print_png(path)
    plt.close(figure)
