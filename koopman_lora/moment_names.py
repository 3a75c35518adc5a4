"""Names of the moments, and of which two feature maps each is: the one place where they are defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# (left map, left time), (right map, right time): M = E[left^H right]; 0 is x and 1 is x'
DEFINITIONS: dict[str, tuple[tuple[str, int], tuple[str, int]]] = {
    "M_f": (("f", 0), ("f", 0)),
    "M_g": (("g", 1), ("g", 1)),
    "T_fg": (("f", 0), ("g", 1)),
    "T_ff": (("f", 0), ("f", 1)),
    "M_f1": (("f", 1), ("f", 1)),
    "T_gg": (("g", 0), ("g", 1)),
    "M_g0": (("g", 0), ("g", 0)),
    "C_gf": (("g", 1), ("f", 1)),
    "C_fg": (("f", 0), ("g", 0)),
    "H_f": (("f", 0), ("h", 0)),
    "H_g": (("g", 1), ("h", 1)),
    "A_ff": (("f", 0), ("f", 1)),  # (T_ff - T_ff^H) / 2 of pairs in their own direction, which cancels both ways
}
# Enough for singular values; for eigenvalues, predictions and residuals; for EDMD with f alone; for forecasts of h.
CROSS = ("M_f", "M_g", "T_fg")
SAME_MAP = ("T_ff", "M_f1", "T_gg", "M_g0", "C_gf", "C_fg")
EDMD = ("M_f", "T_ff", "M_f1")
OBSERVABLES = ("H_f", "H_g")


def n_features(side: str, sums: Mapping[str, Any], shifts: Any = None) -> int | None:
    """Number of features of a side 'f', 'g' or 'h' in sums (..., k, k') of moments; None where no moment tells it.

    Parameters
    ----------
    shifts : None for plain sums; otherwise sums are of one and the features, which counts the one

    Examples
    --------
    >>> n_features("f", {"M_f": np.zeros((1, 3, 3))}), n_features("f", {"M_f": np.zeros((1, 3, 3))}, shifts={})
    (3, 2)
    """
    for name, values in sums.items():
        for (its_side, _), size in zip(DEFINITIONS[name], values.shape[-2:], strict=True):
            if its_side == side:
                return int(size) - (shifts is not None)
    return None


def check_blocks(n_blocks: int) -> None:
    """Raise a ValueError for moments of no block of data."""
    if n_blocks == 0:
        raise ValueError("moments must have at least one block; these have none.")


def checked_observable_names(names: Sequence[str] | None, n_observables: int) -> tuple[str, ...] | None:
    """The names as a tuple, or a ValueError if there are not as many as observables.

    Examples
    --------
    >>> checked_observable_names(["x", "y"], 2)
    ('x', 'y')
    """
    if names is None:
        return None
    if len(names) != n_observables:
        raise ValueError(f"observable_names must name {n_observables} observables; got {len(names)}: {list(names)}.")
    return tuple(map(str, names))
