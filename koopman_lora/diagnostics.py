"""How far to trust a spectrum: captured share, learned against empirical values, scores, intervals -> Dataset."""

from __future__ import annotations

import numpy as np

from koopman_lora.systems import ReferenceSpectrum


def captured_share(f: np.ndarray, g: np.ndarray, reference: ReferenceSpectrum, n_modes: int | None = None) -> float:
    """Share of the true `sum sigma^2` that the learned pair of subspaces captures, by quadrature over the truth.

    `||P_f K P_g||_HS^2 / sum_{i <= n_modes} sigma_i^2`, with P_f and P_g the projections on the spans of f and g in L2
    of the stationary law: 1 at the exact singular functions, whatever linear maps are applied to f or g.

    Parameters
    ----------
    f, g : arrays of shape (n_points, k)
        Features at `reference.points`, the constant included.
    reference : ReferenceSpectrum
        With more modes than f has features, so that nothing that f and g might catch is missed.
    n_modes : int, optional
        Number of modes in the denominator, k by default.

    Raises
    ------
    ValueError
        If f and g are not given at `reference.points`.

    Examples
    --------
    >>> from koopman_lora.systems import NoisyRotation
    >>> reference = NoisyRotation().spectrum(lag=1, n_modes=9)
    >>> phi, psi = reference.left(reference.points), reference.right(reference.points)
    >>> round(captured_share(phi[:, :5], psi[:, :5], reference), 6)
    1.0
    """
    n_points = len(reference.points)
    if len(f) != n_points or len(g) != n_points:
        raise ValueError(f"f and g must be given at the {n_points} reference.points; got {len(f)} and {len(g)} rows.")
    root = np.sqrt(reference.weights)[:, None]
    Q_f, Q_g = (np.linalg.qr(root * features)[0] for features in (f, g))
    left, right = root * reference.left(reference.points), root * reference.right(reference.points)
    between = (np.conj(Q_f.T) @ left * reference.singular_values) @ (np.conj(right.T) @ Q_g)
    n_modes = f.shape[1] if n_modes is None else n_modes
    return float(np.sum(np.abs(between) ** 2) / np.sum(reference.singular_values[:n_modes] ** 2))
