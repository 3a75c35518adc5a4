"""The shipped data sets as labelled arrays: trajectories, their cards, and reference spectra where there are some."""

from __future__ import annotations

import pathlib

import xarray as xr

from koopman_lora.checks import checked
from koopman_lora.data.files import read_netcdf
from koopman_lora.kinds import check_word

__all__ = ["card", "folder", "load", "names", "reference"]

_TRAJECTORIES, _REFERENCE, _CARD = "trajectories.nc", "reference.nc", "README.md"


def _root() -> pathlib.Path:
    """Where they are: in an installed package inside of it, in a clone beside it."""
    package = pathlib.Path(__file__).parent
    inside = package / "_datasets"
    return inside if inside.is_dir() else package.parent / "datasets"


def names() -> list[str]:
    """Names of all data sets.

    Examples
    --------
    >>> names()[:2]
    ['alanine_dipeptide', 'ecg']
    """
    return sorted(path.parent.name for path in _root().glob(f"*/{_TRAJECTORIES}"))


@checked
def folder(name: str) -> pathlib.Path:
    """Folder of a data set, with its files.

    Parameters
    ----------
    name : one of `names()`

    Raises
    ------
    ValueError
        For a name that no data set has.

    Examples
    --------
    >>> folder("markov_chain").name
    'markov_chain'
    """
    check_word("name", name, names())
    return _root() / name


@checked
def load(name: str, variable: str = "state") -> xr.DataArray:
    """Trajectories of a data set, with dt, units and names, for `lagged_pairs` and `KoopmanLoRA.fit`.

    Parameters
    ----------
    name : one of `names()`
    variable : 'state', or another one that the card of the data set tells of

    Returns
    -------
    DataArray (trajectory, time, ...)

    Raises
    ------
    ValueError
        For a name that no data set has, or a variable that is not in it.

    Examples
    --------
    >>> load("four_well_2d").sizes
    Frozen({'trajectory': 8, 'time': 2500, 'coordinate': 2})
    """
    dataset = read_netcdf(folder(name) / _TRAJECTORIES)
    check_word("variable", variable, [str(known) for known in dataset.data_vars])
    return dataset[variable]


@checked
def reference(name: str) -> xr.Dataset:
    """Exact or numerical spectrum of a simulated system: what a method should find in its trajectories.

    Eigenvalues are two variables, `eigenvalues_real` and `eigenvalues_imag`.

    Parameters
    ----------
    name : one of `names()`

    Raises
    ------
    ValueError
        For a name that no data set has, or a data set whose spectrum nobody knows.

    Examples
    --------
    >>> reference("four_well_2d").singular_values.values[:2].round(3)
    array([1.   , 0.978])
    """
    path = folder(name) / _REFERENCE
    if not path.exists():
        known = [other for other in names() if (_root() / other / _REFERENCE).exists()]
        raise ValueError(f"name={name!r} has no known spectrum; these have one: {', '.join(known)}.")
    return read_netcdf(path)


@checked
def card(name: str) -> str:
    """Card of a data set, in Markdown: source, licence, units, shape, how it was made.

    Parameters
    ----------
    name : one of `names()`

    Raises
    ------
    ValueError
        For a name that no data set has.

    Examples
    --------
    >>> print(card("four_well_2d").splitlines()[0])
    # Langevin dynamics in four wells in the plane
    """
    return (folder(name) / _CARD).read_text(encoding="utf-8")
