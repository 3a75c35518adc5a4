"""Which inputs drive a mode: what its singular value loses when an input is permuted, with intervals; gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.sparse import csr_array
from torch import Tensor

from koopman_lora._labels import INPUT, MODE, interval, labelled, provenance
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.inputs import drawn_pairs, input_columns
from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.data.states import in_both_directions
from koopman_lora.intervals import number_of_long_blocks
from koopman_lora.kinds import Count, check_matrices, moderate_array, shown
from koopman_lora.moments import FeatureMap
from koopman_lora.surroundings import gradients

# Numbers of states that pass through the functions at once, so that wide states do not fill the memory.
_ENTRIES = 2**23
_MOST_PERMUTATIONS = 1000
# A function varies if its deviation is more than round-off in single precision of its size.
_VARIES = 1e-6
# What Student's t needs at least; and as many as the moments of a fit have.
_FEWEST_BLOCKS, _MOST_BLOCKS = 8, 64
_NOTE = (
    "conditional on the functions. Inputs that know of each other share a loss, and may each show little of it: group "
    "them to see it. Modes of nearly equal sigma fix a subspace only: read their losses together"
)


@checked
def input_importance(
    phi: FeatureMap,
    psi: FeatureMap,
    pairs: LaggedPairs,
    groups: Mapping[str, Any] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
    n_pairs: Count = 5000,
    n_permutations: Count = 5,
    n_inputs: Count = 256,
) -> xr.Dataset:
    """What the correlation of phi_i(x) and psi_i(x') loses when an input of x is taken from another pair; gradients.

    Each input, a coordinate of the state or a group of them, is permuted among the pairs: it keeps its law and tells
    nothing of its own state any more. Of independent inputs and exact singular functions the loss is sigma times the
    total Sobol index, the share of the variance of phi_i that involves the input: 0 for one that phi_i does not read,
    sigma for one that it cannot do without.

    Parameters
    ----------
    phi, psi : torch maps (batch, *state) -> (batch, n_modes), real or complex, in the order of modes
    pairs : pairs that the correlations are taken over; both ways count where they do in the pairs
    groups : mapping of names to inputs that are permuted together, optional for vectors
        Names or positions of coordinates, or a mask of the state's shape, such as a part of an image. By default every
        coordinate of a vector is an input.
    bootstrap : number of resamples, level and seed, which is that of the permutations and of the choice of pairs, too
    n_pairs : at most so many pairs, drawn at random
        Every input costs `n_permutations` passes over them, and neighbours in time tell little new.
    n_permutations : to average over
    n_inputs : at most so many inputs are permuted, those with the largest gradients, summed over modes
        The others are left out: of thousands of descriptors all would take hours. Without gradients all are permuted.

    Returns
    -------
    Dataset
        `sigma_loss` (input, mode), `total_sigma_loss` (input), the sum over modes, both with intervals; `gradient`
        (input, mode), the root mean square of d phi_i / d x_j in deviations of both, 1 for a function that is linear in
        this input alone, and missing where torch has no gradient; `sigma` (mode), the correlations themselves. The
        attribute `n_left_out` counts inputs that were not permuted.

    Raises
    ------
    TypeError
        For maps that do not give tensors.
    ValueError
        For groups that are none of the state, states that are no vectors without groups, or too few pairs.

    References
    ----------
    docs/mathematics.md, section 6; Breiman, *Random forests* (2001); Sobol (1993) and Homma and Saltelli (1996).

    Examples
    --------
    >>> x = 0.1 * torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)).double().cumsum(0)
    >>> pairs = lagged_pairs(torch.tanh(x))
    >>> found = input_importance(lambda x: x[:, :1], lambda x: x[:, :1], pairs, bootstrap=Bootstrap(99))
    >>> found.sigma_loss.values.round(1)[:, 0], found.gradient.values.round(6)[:, 0]
    (array([1., 0.]), array([1., 0.]))
    """
    inputs = input_columns(groups, pairs.state_shape, pairs.coordinate_names)
    if n_permutations > _MOST_PERMUTATIONS:
        raise ValueError(f"n_permutations must be at most {_MOST_PERMUTATIONS}; got {n_permutations}.")
    rng = np.random.default_rng(bootstrap.seed)
    some = drawn_pairs(pairs, n_pairs, rng)
    x, x_next = in_both_directions(some.x, some.x_next) if pairs.is_reversible else (some.x.clone(), some.x_next)
    as_they_are, there = _values("phi", phi, x), _values("psi", psi, x_next)
    if as_they_are.shape != there.shape:
        raise ValueError(f"phi and psi must have as many modes; got {as_they_are.shape} and {there.shape}.")
    block = _blocks(some, as_they_are, there, len(pairs))
    weights = np.repeat(some.weights, 2) if some.weights is not None and pairs.is_reversible else some.weights
    donors = [_donors(rng, len(x), weights) for _ in range(n_permutations)]
    correlations = _Correlations(as_they_are, there, block, donors, bootstrap, weights)
    sigma = correlations.as_they_are
    factor = bootstrap.t_factor(correlations.n_blocks)
    gradient = _gradient_of(inputs, _slopes(phi, x, correlations.deviation, weights))
    n_all = len(inputs)
    if gradient is not None and n_all > n_inputs:
        steepest = np.sort(np.argsort(-gradient.sum(axis=1), kind="stable")[:n_inputs])
        names = list(inputs)
        inputs, gradient = {names[i]: inputs[names[i]] for i in steepest}, gradient[steepest]
    found = [_loss(sigma - correlations.of(_permuted(phi, x, columns, donors)), factor) for columns in inputs.values()]
    bounds = np.stack([b for _, b in found], axis=1)  # (bound, input, mode and total)
    losses = np.stack([loss for loss, _ in found])
    variables = {
        "sigma_loss": ((INPUT, MODE), losses[:, :-1]),
        **interval("sigma_loss", [INPUT, MODE], bounds[..., :-1]),
        "total_sigma_loss": (INPUT, losses[:, -1]),
        **interval("total_sigma_loss", [INPUT], bounds[..., -1]),
        "sigma": (MODE, sigma[0]),
    }
    if gradient is not None:
        variables["gradient"] = ((INPUT, MODE), gradient)
    attrs = provenance(
        **bootstrap.attrs(),
        n_blocks=correlations.n_blocks,
        n_pairs=len(some),
        n_permutations=n_permutations,
        n_left_out=n_all - len(inputs),
        **pairs.clock.attrs(),
        note=_NOTE,
    )
    return labelled(variables, attrs, {INPUT: list(inputs)})


def functions_of(features: FeatureMap, coefficients: np.ndarray) -> FeatureMap:
    """Functions with coefficients (n_features, n_modes) on torch features, as a map that torch can differentiate.

    Examples
    --------
    >>> functions_of(lambda x: x.float(), np.array([[2.0], [1.0]]))(torch.tensor([[1.0, 3.0]]))
    tensor([[5.]], dtype=torch.float64)
    """

    def functions(x: Tensor) -> Tensor:
        values = features(x)
        table = torch.as_tensor(coefficients, device=values.device)
        dtype = torch.promote_types(values.dtype, table.dtype)
        return values.to(dtype) @ table.to(dtype)

    return functions


def _gradient_of(inputs: Mapping[str, np.ndarray], slopes: np.ndarray | None) -> np.ndarray | None:
    """Root sums of squares over the entries of every input, (n_inputs, n_modes); None without gradients."""
    if slopes is None:
        return None
    return np.stack([np.sqrt(np.square(slopes[columns]).sum(axis=0)) for columns in inputs.values()])


def _values(name: str, functions: FeatureMap, x: Tensor) -> np.ndarray:
    """Functions at states (n, *state) in double precision, (n, n_modes)."""
    with torch.no_grad():
        parts = [functions(batch) for batch in x.split(_rows_at_once(x))]
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        got = shown(parts[0]) if parts else "no pairs"
        raise TypeError(f"{name} must map the states of pairs to torch tensors; got {got}.")
    values = moderate_array(f"values of {name}", torch.cat(parts))
    check_matrices(f"values of {name}", values, len(x), is_one=True)
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def _rows_at_once(x: Tensor) -> int:
    return min(BATCH, max(1, _ENTRIES // max(1, x[:1].numel())))


def _permuted(phi: FeatureMap, x: Tensor, columns: np.ndarray, donors: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The functions at states of which some entries are another state's; `x` is written to, and left as it was."""
    flat = x.view(len(x), -1)
    kept = flat[:, columns].clone()
    for donor in donors:
        flat[:, columns] = kept[donor]
        yield _values("phi", phi, x)
    flat[:, columns] = kept


def _donors(rng: np.random.Generator, n: int, weights: np.ndarray | None) -> np.ndarray:
    """Which state each takes an input from (n,): a permutation; of weighted ones as often as their weights say.

    Examples
    --------
    >>> np.sort(_donors(np.random.default_rng(0), 4, np.array([2.0, 0.0, 1.0, 1.0])))
    array([0, 0, 2, 3])
    """
    if weights is None:
        return rng.permutation(n)
    ends = np.cumsum(weights) / weights.sum()  # evenly spaced draws: none is far from its share
    return rng.permutation(np.minimum(np.searchsorted(ends, (np.arange(n) + rng.random()) / n), n - 1))


def _blocks(some: LaggedPairs, phi: np.ndarray, psi: np.ndarray, n_all: int) -> np.ndarray:
    """Block numbers of the rows: contiguous, longer than the memory of the slowest function, see `in_long_blocks`."""
    centred = [values - values.mean(axis=0) for values in (phi, psi)]
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(centred[0], axis=0) * np.linalg.norm(centred[1], axis=0)
        sigma = np.nan_to_num(np.abs(np.sum(np.conj(centred[0]) * centred[1], axis=0)) / norms)
    n_blocks = min(number_of_long_blocks(float(sigma.max(initial=0.0)), n_all, some.clock), _MOST_BLOCKS)
    block = block_numbers(some, n_blocks)
    if len(np.unique(block)) < _FEWEST_BLOCKS:
        raise ValueError(f"pairs must be at least {_FEWEST_BLOCKS} for intervals; got {len(some)}.")
    return np.repeat(block, 2) if some.is_reversible else block


class _Correlations:
    """Correlations of functions of x with psi(x'), over all pairs and over every resample of their blocks.

    A permuted pair counts as often as its own block and the block of its donor are drawn: the law of the input is known
    no better than the pairs are. Of functions that do not vary, as the constant mode, the correlation is 1.
    """

    def __init__(
        self,
        phi: np.ndarray,
        psi: np.ndarray,
        block: np.ndarray,
        donors: Sequence[np.ndarray],
        bootstrap: Bootstrap,
        weights: np.ndarray | None,
    ) -> None:
        self.psi, self.n_blocks = psi, len(np.unique(block))
        self.weights = np.concatenate([np.ones((1, self.n_blocks)), bootstrap.weights(self.n_blocks)])
        cells = [block * self.n_blocks + block[donor] for donor in donors]
        counted = np.ones(len(phi)) if weights is None else weights
        self.cells = [csr_array((counted, (c, np.arange(len(c)))), (self.n_blocks**2, len(c))) for c in cells]
        self.count = self._weighted(sum(cells.sum(axis=1) for cells in self.cells))
        # weighted as the permuted pairs are, so that an input that is not read loses exactly nothing
        self.psi_moments = self._means([(psi, np.square(np.abs(psi)))] * len(donors))
        power = np.average(np.square(np.abs(phi)), axis=0, weights=weights)
        centred = phi - np.average(phi, axis=0, weights=weights)
        self.deviation = np.sqrt(np.average(np.square(np.abs(centred)), axis=0, weights=weights))
        self.varies = self.deviation > _VARIES * np.sqrt(power)
        self.as_they_are = self.of([phi] * len(donors))

    def of(self, copies: Iterable[np.ndarray]) -> np.ndarray:
        """Real correlations (1 + n_resamples, n_modes) of psi with copies of the functions, one for each donor."""
        mean, power, product = self._means((phi, np.square(np.abs(phi)), np.conj(phi) * self.psi) for phi in copies)
        psi_mean, psi_power = self.psi_moments
        variance = (power - np.square(np.abs(mean))) * (psi_power - np.square(np.abs(psi_mean)))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.real(product - np.conj(mean) * psi_mean) / np.sqrt(np.maximum(variance, 0.0))
        return np.where(self.varies, np.nan_to_num(values, posinf=0.0, neginf=0.0), 1.0)

    def _means(self, copies: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Means over every resample, (1 + n_resamples, n_modes) each, of several values (n, n_modes) for each donor."""
        sums = [[cells @ values for values in several] for cells, several in zip(self.cells, copies, strict=True)]
        return [self._weighted(sum(of_donors)) / self.count for of_donors in zip(*sums, strict=True)]

    def _weighted(self, sums: Any) -> np.ndarray:
        """Sums over pairs of a block and a donor's block, weighted as often as both are drawn."""
        by_donor = (self.weights @ sums.reshape(self.n_blocks, -1)).reshape(len(self.weights), self.n_blocks, -1)
        return np.einsum("rbm,rb->rm", by_donor, self.weights)


def _loss(lost: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses of every mode, and of all together behind them, (n_modes + 1,), with bounds (2, n_modes + 1)."""
    lost = np.concatenate([lost, lost.sum(axis=1, keepdims=True)], axis=1)
    return lost[0], t_interval(lost[0], lost[1:], factor)


def _slopes(phi: FeatureMap, x: Tensor, deviation: np.ndarray, weights: np.ndarray | None) -> np.ndarray | None:
    """Root mean squares of d phi_i / d x_j in deviations of both, (n_entries, n_modes); None without gradients."""
    squares: Any = 0.0
    counted = torch.ones(len(x)).double() if weights is None else torch.from_numpy(weights)
    size = _rows_at_once(x)
    for batch, of_rows in zip(x.split(size), counted.split(size), strict=True):
        of_batch = _squared_gradients(phi, batch, of_rows)
        if of_batch is None:
            return None
        squares = squares + of_batch
    entries = x.flatten(1).double().numpy()
    centred = entries - np.average(entries, axis=0, weights=weights)
    spread = np.sqrt(np.average(np.square(centred), axis=0, weights=weights))
    unit = np.where(deviation > 0, deviation, 1.0)
    return np.sqrt(squares / float(counted.sum())) * spread[:, None] / unit


def _squared_gradients(phi: FeatureMap, x: Tensor, weights: Tensor) -> np.ndarray | None:
    """Weighted sums over states of |d phi_i / d x_j|^2, (n_entries, n_modes)."""
    with gradients():
        x = x.detach().clone().requires_grad_()
        values = phi(x)
        if not values.requires_grad:
            return None
        parts = [values.real, values.imag] if values.is_complex() else [values]
        sums = [[_squared_gradient(part[:, i].sum(), x, weights) for i in range(values.shape[1])] for part in parts]
    if any(column is None for of_part in sums for column in of_part):
        return None
    return np.sum([np.stack(of_part, axis=1) for of_part in sums], axis=0)  # type: ignore[arg-type]


def _squared_gradient(total: Tensor, x: Tensor, weights: Tensor) -> np.ndarray | None:
    """Weighted sum over states of the squared gradient of a sum over states, (n_entries,)."""
    if not total.requires_grad:
        return np.zeros(x[:1].numel())
    (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    return None if gradient is None else (weights[:, None] * gradient.flatten(1).double().square()).sum(dim=0).numpy()
