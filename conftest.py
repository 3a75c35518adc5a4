"""Names that every doctest finds, so that examples begin where the story does; no figure outlives its test."""

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import koopman_lora as kl

# of the rooms below, as a user would import them from the front door
_FROM_THE_FRONT_DOOR = ("estimate_moments", "lagged_pairs")


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace |= {"np": np, "torch": torch, "xr": xr, "kl": kl}
    doctest_namespace |= {name: getattr(kl, name) for name in _FROM_THE_FRONT_DOOR}
    doctest_namespace |= {name: getattr(kl.systems, name) for name in dir(kl.systems) if name[0].isupper()}


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")
