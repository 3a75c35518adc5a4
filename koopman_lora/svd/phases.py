"""The free signs or phases of singular triples, and the rules that fix them."""

from __future__ import annotations

import numpy as np

from koopman_lora._linalg import phase_of

PHASES = ("max", "sigma", "reference")
# Entries of a singular vector that count as equally large in the phase rule "max": the first of them decides.
EQUALLY_LARGE = 1e-6


def fix_phases(
    U: np.ndarray, values: np.ndarray, Vh: np.ndarray, rule: str, reference: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fix the free phases of singular triples; `U diag(values) Vh` never changes.

    Parameters
    ----------
    U, values, Vh : arrays (M, k), (k,), (k, N); values may be negative or complex, as `diag(U^H H V)` is
    rule : 'sigma', 'max' or 'reference'
        All make the values real and not negative by turning v. 'sigma' leaves U alone; 'max' then turns u and v
        together until the largest entry of u is real positive (of entries equal to 1e-6 the first); 'reference' until
        `<u_reference, u>` is.
    reference : array (M, k'), k' >= k, for 'reference'

    Raises
    ------
    ValueError
        For another rule, or a reference that is missing or of another shape.

    Examples
    --------
    >>> fix_phases(np.array([[-1.0]]), np.array([-2.0]), np.array([[1.0]]), "max")
    (array([[1.]]), array([2.]), array([[1.]]))
    """
    if rule not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(map(repr, PHASES))}; got {rule!r}.")
    turn = phase_of(values)  # values * turn >= 0, so Vh takes conj(turn)
    Vh, values = Vh * np.conj(turn)[:, None], np.abs(values)
    if rule == "sigma":
        return U, values, Vh
    if rule == "max":
        modulus = np.abs(U)
        first = (modulus >= (1 - EQUALLY_LARGE) * modulus.max(axis=0)).argmax(axis=0)
        turn = phase_of(U[first, np.arange(U.shape[1])])
    else:
        turn = phase_of(_overlaps(U, reference))
    return U * turn, values, Vh * np.conj(turn)[:, None]


def _overlaps(U: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    if reference is None:
        raise ValueError("phase='reference' needs reference, the left vectors (M, n_modes) to align with; got None.")
    reference = np.asarray(reference)
    if reference.ndim != 2 or reference.shape[0] != U.shape[0] or reference.shape[1] < U.shape[1]:
        raise ValueError(
            f"reference must have shape (M={U.shape[0]}, at least n_modes={U.shape[1]}); got {reference.shape}."
        )
    return np.sum(np.conj(reference[:, : U.shape[1]]) * U, axis=0)
