"""Eigenvalues with right and left eigenfunctions, their timescales and intervals, and Koopman modes of observables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import FEATURE_F, FEATURE_G, MODE, OBSERVABLE, check_result, labelled, provenance
from koopman_lora._linalg import RANK_TOLERANCE, conjugate_transpose, eigenvalue_order
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.clock import CLOCK_ATTRS, Clock
from koopman_lora.intervals import Reach, eigenvalue_intervals, in_long_blocks, unseen_floor
from koopman_lora.kinds import Share, finite_array, number_array
from koopman_lora.moments import Moments, OneEstimate
from koopman_lora.propagation import METHODS, Propagator, check_method, propagator
from koopman_lora.triples import independent_basis

# Dimensions of the right and of the left coefficients.
FEATURE_DIMS = {
    "operator": (FEATURE_F, FEATURE_G),
    "edmd": (FEATURE_F, FEATURE_F),
    "edmd_g": (FEATURE_G, FEATURE_G),
}
# Round-off splits a defective pair of eigenvalues by some 1e-8, so its eigenvectors have a condition number of 1e8.
WORST_EIGENVECTORS = 1e7
# Eigenvalues this small, relative to the largest, are round-off of 0.
ZERO_EIGENVALUE = 1e-12


@checked
def eigen_analysis(
    moments: OneEstimate,
    method: str = "operator",
    *,
    n_modes: int | None = None,
    bootstrap: Bootstrap | None = None,
    threshold: Share = RANK_TOLERANCE,
) -> xr.Dataset:
    """Eigenvalues with right and left eigenfunctions, timescales and frequencies, and their bootstrap intervals.

    Parameters
    ----------
    moments : Moments
        Of any features: a model's, a fixed dictionary's, or the refined trunk's (then with method='edmd').
    method : 'operator', 'edmd' or 'edmd_g'
        The rank-n operator `diag(sigma) E[psi(x')^H phi(x')]`, or EDMD on f or on g. For `symmetrised` moments all
        agree.
    n_modes : rank of the operator, all features by default
    bootstrap : of the intervals, those of `bootstrap_intervals`; None for none
    threshold : relative whitening threshold

    Returns
    -------
    Dataset
        Over mode, by decreasing modulus, the two of a conjugate pair side by side, positive frequency first:

        - `eigenvalues`, `timescales`, `frequencies` (principal branch: faster than attribute `aliasing_limit` is
          aliased), `eigenvalue_condition` (in L2, 1 for normal systems);
        - `right_eigenfunction_coefficients`: eigenfunctions f(x) @ right of unit L2 norm, see `Moments.phases`;
        - `left_eigenfunction_coefficients`: eigenfunctions of the adjoint, bi-orthogonal: E[conj(left_i) right_j] = 1
          if i = j, else 0. They multiply the features named in attribute `left_features` (g for 'operator'). NaN, with
          an infinite condition, where the eigenvalue of the rank-n operator is 0: there is none in the span of g.
        - with a bootstrap: `eigenvalues_interval` (bound, part, mode), `eigenvalue_modulus_interval`,
          `timescales_interval`, `frequencies_interval` (bound, mode). They cover the sampling error, not that of the
          features.

    Raises
    ------
    ValueError
        For an unknown method, moments without what it needs, fewer than 8 blocks to resample, or an operator that
        cannot be diagonalised.

    References
    ----------
    docs/mathematics.md, section 4.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> features = lambda s: torch.cat([torch.ones_like(s), s], dim=1)
    >>> eigen_analysis(estimate_moments(features, features, (x, 0.5 * x))).timescales.values.round(4)
    array([ inf, 1.4427])
    """
    check_method(method, tuple(FEATURE_DIMS))
    if method == "edmd_g":
        moments = moments.of_g_only()
    route = "operator" if method == "operator" else "edmd"
    basis = independent_basis(moments, threshold)
    moments = basis.moments(moments)
    step = _without_null_directions(propagator(moments, route, n_modes, threshold))
    values, right, undivided = _eigenfunctions(moments, step)
    left = _divided(undivided, values) if route == "operator" else undivided
    right_dim, left_dim = FEATURE_DIMS[method]
    clock = moments.clock
    left_side = "g" if route == "operator" else "f"
    norms = _norms(left, getattr(moments, f"M_{left_side}"))
    condition = np.nan_to_num(norms, nan=np.inf, posinf=np.inf)
    variables: dict[str, Any] = {
        "eigenvalues": (MODE, values),
        "timescales": (MODE, clock.timescales(values), {"units": clock.time_unit}),
        "frequencies": (MODE, clock.frequencies(values), {"units": f"1/{clock.time_unit}"}),
        "eigenvalue_condition": (MODE, condition),
        "right_eigenfunction_coefficients": ((right_dim, MODE), basis.of_features("f", right)),
        "left_eigenfunction_coefficients": ((left_dim, MODE), basis.of_features(left_side, left)),
    }
    attrs = provenance(
        method=method,
        **clock.attrs(),
        n_pairs=moments.n_pairs,
        right_features=right_dim[-1],
        left_features=left_dim[-1],
        aliasing_limit=1 / (2 * clock.lag_time),
        is_reversible=moments.is_reversible,
    )
    if bootstrap is not None:
        blocks = in_long_blocks(moments) if "T_fg" in moments else moments
        stack = blocks.reweighted(bootstrap.weights(blocks.n_blocks))
        drawn = np.linalg.eigvals(propagator(stack, route, n_modes, threshold).K).astype(complex)
        reach = Reach(bootstrap.t_factor(blocks.n_blocks), unseen_floor(moments, bootstrap.level), condition)
        variables |= eigenvalue_intervals(values, drawn, reach, clock)
        attrs |= bootstrap.attrs()
    return labelled(variables, attrs)


def _without_null_directions(step: Propagator) -> Propagator:
    """Drop coordinates that are zero functions, because the features are linearly dependent."""
    keep = step.start.any(axis=0) & step.back.any(axis=0)
    readout = None if step.readout is None else step.readout[keep]
    return Propagator(step.start[:, keep], step.K[np.ix_(keep, keep)], readout, step.back[:, keep])


def _eigenfunctions(moments: Moments, step: Propagator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, and coefficients of right and left eigenfunctions with their phases fixed.

    Those of the left ones are not yet divided by the conjugate eigenvalues where the route is 'operator'.
    """
    values, right, dual = _eigenpairs(step.K)
    coefficients, left = step.start @ right, step.back @ dual
    turn = moments.phases(coefficients)
    return values, coefficients * turn, left * turn


def _divided(left: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`psi diag(sigma) w / conj(lambda)`, since K* maps on the span of psi: NaN where the eigenvalue is 0."""
    result = np.full_like(left, np.nan)
    return np.divide(left, np.conj(values), out=result, where=~_is_zero(values))


def _is_zero(values: np.ndarray) -> np.ndarray:
    """Eigenvalues that are 0 but for round-off."""
    return np.abs(values) <= ZERO_EIGENVALUE * np.abs(values).max(initial=0.0)


def _eigenpairs(K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted eigenvalues, unit right eigenvectors V, and W with W^H V = 1."""
    values, right = np.linalg.eig(K)
    order = eigenvalue_order(values)
    values, right = values[order].astype(complex), right[:, order].astype(complex)
    condition = np.linalg.cond(right)
    if not condition < WORST_EIGENVECTORS:
        raise ValueError(
            f"moments give an operator that cannot be diagonalised (its eigenvectors have condition number "
            f"{condition:.1e}), so it has no eigenfunctions to expand in; forecasts and singular functions still work."
        )
    return values, right, conjugate_transpose(np.linalg.inv(right))


def _norms(coefficients: np.ndarray, M: np.ndarray) -> np.ndarray:
    """L2 norms of the functions with these coefficients, of features with second moments M."""
    return np.sqrt(np.real(np.sum(np.conj(coefficients) * (M @ coefficients), axis=0)))


@checked
def timescales_from_singular_values(spectrum: xr.Dataset, *, reversible: bool = False) -> xr.DataArray:
    """`-lag dt / ln sigma` of the canonical singular values: relaxation times only if the dynamics are reversible.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    reversible : say True if you know that the process satisfies detailed balance; otherwise sigma >= |lambda| only, and
        these times would be too long. A spectrum of pairs counted both ways knows it

    Raises
    ------
    ValueError
        Without reversible=True, of another spectrum.

    Examples
    --------
    >>> s = xr.Dataset({"canonical_singular_values": ("mode", [1.0, np.exp(-0.5)])}, attrs=Clock(2).attrs())
    >>> timescales_from_singular_values(s, reversible=True).values
    array([inf, 4.])
    """
    if reversible is not True and not spectrum.attrs.get("is_reversible", False):
        raise ValueError(
            f"reversible={reversible!r}: singular values are not eigenvalues, and give timescales only for dynamics "
            "with detailed balance. Use eigen_analysis(...).timescales, or pass reversible=True if you know it holds."
        )
    check_result("spectrum", spectrum, "koopman_spectrum", "canonical_singular_values", attrs=CLOCK_ATTRS)
    sigma = spectrum["canonical_singular_values"]
    clock = Clock.from_attrs(spectrum.attrs)
    attrs = {"units": clock.time_unit, "assumes": "detailed balance"}
    return xr.DataArray(
        clock.timescales(sigma.values), dims=sigma.dims, coords=sigma.coords, name="timescales", attrs=attrs
    )


@checked
def evaluate_on_grid(
    function: Callable[[np.ndarray], np.ndarray], axes: Mapping[str, np.ndarray], *, unit: str = "1"
) -> xr.DataArray:
    """Values of functions of the state on a grid, (*axes, mode), for plots.

    Parameters
    ----------
    function : array (n, n_coordinates) -> array (n, n_modes)
    axes : name of each coordinate and its values

    Examples
    --------
    >>> evaluate_on_grid(lambda x: x**2, {"x": np.array([0.0, 1.0, 2.0])}, unit="nm")[:, 0].values
    array([0., 1., 4.])
    """
    axes = {name: finite_array(f"axes[{name!r}]", values) for name, values in axes.items()}
    if not axes or any(values.ndim != 1 or values.size == 0 for values in axes.values()):
        raise ValueError(f"axes must name at least one coordinate, each with values (n,); got {list(axes)}.")
    points = np.stack(np.meshgrid(*axes.values(), indexing="ij"), axis=-1)
    values = number_array("function", function(points.reshape(-1, len(axes))))
    if values.ndim != 2 or len(values) != points[..., 0].size:
        raise ValueError(f"function must give ({points[..., 0].size}, n_modes) values on the grid; got {values.shape}.")
    coords: dict[str, Any] = {name: (name, np.asarray(axis), {"units": unit}) for name, axis in axes.items()}
    coords[MODE] = np.arange(1, values.shape[1] + 1)
    return xr.DataArray(values.reshape(*points.shape[:-1], -1), dims=(*axes, MODE), coords=coords, name="functions")


@checked
def koopman_modes(moments: OneEstimate, method: str = "operator", *, n_modes: int | None = None) -> xr.Dataset:
    """`eigen_analysis` with the Koopman modes of the observables: the weight <left_i, h> of eigenfunction i in each.

    `E[h(x_t) | x_0] = sum_i right_i(x_0) eigenvalue_i^t koopman_modes_i`, t >= 1, to which at one lag, t = 1, comes
    `sum_i right_i(x_0) residual_modes_i`, reproduces `forecast`. An eigenfunction of the rank-n operator whose
    eigenvalue is 0 has no left partner in the span of psi: it carries observables over one lag, and no further.

    Parameters
    ----------
    moments : estimated with `observables=h`, such as `flat_state`
    method, n_modes : see `eigen_analysis`

    Returns
    -------
    Dataset with `koopman_modes` (mode, observable), 0 where the eigenvalue is, and `residual_modes` (mode, observable),
    0 where it is not, beside everything from `eigen_analysis`

    References
    ----------
    docs/mathematics.md, section 7.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> pairs = koopman_modes(estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=lambda s: s))
    >>> (pairs.right_eigenfunction_coefficients.values @ pairs.koopman_modes.values).real.round(6)
    array([[1.]])
    """
    check_method(method, METHODS)
    pairs = eigen_analysis(moments, method, n_modes=n_modes)
    carried, residual = _weights_of_observables(moments, method, n_modes)
    names = moments.observable_names or range(carried.shape[1])
    variables = {"koopman_modes": ((MODE, OBSERVABLE), carried), "residual_modes": ((MODE, OBSERVABLE), residual)}
    return pairs.assign(variables).assign_coords({OBSERVABLE: list(names)})


def _weights_of_observables(moments: Moments, method: str, n_modes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Koopman modes, and what eigenfunctions of eigenvalue 0 add at one lag, (n_modes, n_observables) each.

    With K = V diag(lambda) W^H and t lags, V diag(lambda)^(t-1) W^H readout: for lambda = 0 the term of t = 1 alone.
    EDMD has K^t instead, and no such term.
    """
    functions = independent_basis(moments).moments(moments)
    step = _without_null_directions(propagator(functions, method, n_modes))
    values, _, undivided = _eigenfunctions(functions, step)
    if method != "operator":
        carried = conjugate_transpose(undivided) @ functions.H_f
        return carried, np.zeros_like(carried)
    left = np.nan_to_num(_divided(undivided, values))
    residual = np.where(_is_zero(values)[:, None], conjugate_transpose(undivided) @ functions.H_g, 0.0)
    return conjugate_transpose(left) @ functions.H_g, residual
