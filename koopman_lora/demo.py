"""The main job from end to end: simulate, fit, compute the spectrum, write results and pictures, print a table."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING

import xarray as xr

from koopman_lora.analysis_files import check_analysis_folder
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.io import save_dataset
from koopman_lora.systems import FourWellLandscape2D, ReferenceSpectrum
from koopman_lora.tables import spectrum_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_DEMO_BYTES = 4_000_000  # of its trajectories, analysis, pictures and report
_PAGE = "report.html"


def run_demo(out: str | os.PathLike = "runs/demo", progress: bool | None = None) -> xr.Dataset:
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
    folder = prepare_folder(out, _DEMO_BYTES)
    system = FourWellLandscape2D()
    trajectories = system.simulate(n_trajectories=8, n_steps=5000, seed=0)
    reference = system.spectrum(lag=1, n_modes=8)
    estimator = KoopmanLoRA(n_modes=8, lag=1, seed=0, progress=progress).fit(trajectories)
    try:
        estimator.save(folder)
        save_dataset(trajectories, folder / "trajectories.nc")
        _draw(estimator, reference, folder)
    finally:  # whatever could not be written, the table is not lost
        print(f"{spectrum_table(estimator.spectrum_, reference)}\n\n{estimator.summary()}")
    print(f"\ntrajectories, analysis and pictures are in {folder}/; open in a browser: {folder / _PAGE}")
    return estimator.spectrum_


def prepare_folder(out: str | os.PathLike, n_bytes: int = 0) -> pathlib.Path:
    """Make the folder of an analysis, and check that it can be written and has room for `n_bytes`.

    Raises
    ------
    OSError
        If it cannot or has not.
    """
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"out={str(out)!r} cannot be written ({error.strerror}); choose another folder.") from error
    check_analysis_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(
            f"out={str(out)!r} has {free / 1e6:.1f} MB free, and the results need some {n_bytes / 1e6:.1f} MB; make "
            "room, or choose another folder."
        )
    return folder


def _draw(estimator: KoopmanLoRA, reference: ReferenceSpectrum, folder: pathlib.Path) -> None:
    from koopman_lora import plots  # here, for every sub-command imports this file and only the demo draws

    states = estimator.pairs_.x[::4]
    values = estimator.singular_functions(states)
    _save(plots.plot_spectrum(estimator.spectrum_, reference).figure, folder / "spectrum.png")
    _save(plots.plot_history(estimator.training_.history).figure, folder / "history.png")
    names = [f"{name} (nm)" for name in estimator.pairs_.coordinate_names or ("x", "y")]
    axes = plots.plot_singular_functions(states.numpy(), values, coordinate_names=names)
    _save(axes[0].figure, folder / "singular_functions.png")
    estimator.report(folder / _PAGE)


def _save(figure: Figure | SubFigure, path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    whole = figure if isinstance(figure, Figure) else figure.figure
    FigureCanvasAgg(whole).print_png(path)
    plt.close(whole)
