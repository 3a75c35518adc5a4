"""Weights that make runs from off-equilibrium starts stationary, on chains whose stationary law is known."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import koopman_lora as kl
from koopman_lora.moments import Moments
from koopman_lora.reweighting import FEW_COUNT, NOT_CONNECTED, EquilibriumWeights
from koopman_lora.states.markov_models import stationary_distribution
from koopman_lora.systems import FourWellLandscape2D

CHAIN = np.array([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.02, 0.18, 0.8]])
PI = stationary_distribution(CHAIN)


def exact_moments(P, start, features, observables=None, n_blocks=1):
    """Moments of features (n_states, k) of a chain whose x has the law `start`: expectations, no samples."""
    joint = start[:, None] * P
    sums = {"M_f": features.T @ (start[:, None] * features), "T_ff": features.T @ joint @ features}
    shifts = {"f": np.zeros(features.shape[1])}

    def beside_one(M, left, right):
        return np.block([[np.ones((1, 1)), right[None]], [left[:, None], M]])

    means, later = start @ features, start @ P @ features
    sums = {"M_f": beside_one(sums["M_f"], means, means), "T_ff": beside_one(sums["T_ff"], means, later)}
    if observables is not None:
        h = start @ observables
        sums["H_f"] = beside_one(features.T @ (start[:, None] * observables), means, h)
        shifts["h"] = np.zeros(observables.shape[1])
    stacked = {name: np.repeat(M[None], n_blocks, axis=0) for name, M in sums.items()}
    return Moments(stacked, np.ones(n_blocks), shifts=shifts)


@given(
    seed=st.integers(0, 10_000),
    n_states=st.integers(2, 6),
    is_mixed=st.booleans(),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_of_exact_moments_the_weights_are_exact(seed, n_states, is_mixed, offset):
    rng = np.random.default_rng(seed)
    P, start = rng.dirichlet(np.ones(n_states), size=n_states), rng.dirichlet(3 * np.ones(n_states))
    features = np.eye(n_states)
    if is_mixed:  # any functions with the same span, the constant somewhere among them
        features = np.linalg.qr(np.hstack([np.ones((n_states, 1)), rng.normal(size=(n_states, n_states - 1))]))[0]
        features[:, 1:] += offset
    found = kl.equilibrium_weights(exact_moments(P, start, features, np.eye(n_states)))
    pi = stationary_distribution(P)
    assert np.allclose(found.at(features), pi / start, rtol=1e-6, atol=1e-8)
    assert np.allclose(found.means.equilibrium_mean, pi, rtol=1e-6, atol=1e-8)
    slowest = np.sort(np.abs(np.linalg.eigvals(P)))[-2]
    assert found.slowest == pytest.approx(slowest, rel=1e-6, abs=1e-8)


def one_hot(x):
    return torch.eye(3, dtype=torch.float64)[x[:, 0].long()]


def chain_pairs(seed, n_runs=300, n_steps=6, start=(0.8, 0.1, 0.1), P=CHAIN):
    rng = np.random.default_rng(seed)
    states = np.empty((n_runs, n_steps), dtype=int)
    states[:, 0] = rng.choice(len(P), size=n_runs, p=start)
    for t in range(1, n_steps):
        below = np.cumsum(P[states[:, t - 1]], axis=1)
        states[:, t] = np.minimum((rng.random(n_runs)[:, None] > below).sum(axis=1), len(P) - 1)
    return kl.lagged_pairs([run[:, None].astype(float) for run in states], check_constant=False)


def estimate(pairs, n_resamples=300):
    bootstrap = kl.Bootstrap(n_resamples)
    return kl.equilibrium_weights(kl.estimate_moments(one_hot, one_hot, pairs, observables=one_hot), bootstrap)


@pytest.mark.slow
def test_populations_lie_within_their_intervals():
    """20 draws of 300 runs of 6 frames, most from one state: 60 intervals of 95 %."""
    covered = []
    for seed in range(20):
        pairs = chain_pairs(seed)
        found = estimate(pairs)
        low, high = found.means.equilibrium_mean_interval.values
        covered.append((low <= PI) & (high >= PI))
        assert found.findings == ()
    assert np.mean(covered) >= 0.88
    plain = one_hot(pairs.x).numpy().mean(axis=0)
    assert (np.abs(plain - PI) > 0.1).any()


def test_pairs_with_weights_are_stationary():
    pairs = chain_pairs(0)
    found = estimate(pairs)
    weighted = found.weighted(pairs, one_hot)
    moments = kl.estimate_moments(one_hot, one_hot, weighted)
    before, after = (np.diag(getattr(moments, name)) for name in ("M_f", "M_f1"))
    assert np.allclose(before, after, atol=1e-12)
    assert np.allclose(before, found.means.equilibrium_mean, atol=1e-12)
    assert found.n_effective == pytest.approx(weighted.n_effective, rel=1e-9)
    assert "weighted as" in repr(found)


def test_weights_of_the_pairs_are_kept():
    """Weights that make starts of one law those of another change nothing of the stationary one."""
    pairs = chain_pairs(1, n_runs=4000)
    first = np.array([5.0, 1.0, 1.0])[pairs.x[pairs.frame == 0, 0].long().numpy()]
    of_runs = pairs.weighted(first[pairs.trajectory])
    found = estimate(of_runs, 50)
    assert np.allclose(found.means.equilibrium_mean, PI, atol=0.05)
    weighted = found.weighted(of_runs, one_hot)
    assert np.allclose(np.average(one_hot(pairs.x), axis=0, weights=weighted.weights), PI, atol=0.05)


# ---- where it cannot work --------------------------------------------------------------------------------------------

APART = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])


def test_parts_that_no_pair_connects_are_refused():
    with pytest.raises(ValueError, match="second relaxation that never ends"):
        estimate(chain_pairs(0, P=APART, start=(0.4, 0.3, 0.3)))


def test_parts_that_few_pairs_connect_are_told():
    P = APART.copy()
    P[0, 2], P[0, 0], P[2, 0], P[2, 2] = 0.002, 0.898, 0.002, 0.998
    found = estimate(chain_pairs(2, P=P, start=(0.4, 0.3, 0.3)))
    assert [finding.name for finding in found.findings] == [NOT_CONNECTED]
    assert "may never end; its interval is 0.9" in found.findings[0].message
    assert NOT_CONNECTED in repr(found)
    assert found.slowest_interval[1] > 0.9999
    low, high = found.means.equilibrium_mean_interval.values
    assert ((high - low) > 0.5).any()  # the intervals say so as well


def test_few_pairs_that_count_are_told():
    P = np.array([[0.9, 0.1, 0.0], [0.5, 0.0, 0.5], [0.0, 0.001, 0.999]])
    found = kl.equilibrium_weights(exact_moments(P, np.array([0.899, 0.1, 0.001]), np.eye(3)))
    assert found.n_effective < 0.01
    assert FEW_COUNT in [finding.name for finding in found.findings]
    assert np.isnan(found.slowest_interval).all()
    assert found.means is None


def test_features_that_cannot_tell_the_densities_apart_give_negative_weights():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 1))
    pairs = kl.lagged_pairs((x, 0.5 * x + 3.0 + 0.3 * rng.normal(size=x.shape)))  # stationary far outside of the starts
    linear = lambda s: torch.cat([torch.ones_like(s), s], dim=1)  # noqa: E731
    found = kl.equilibrium_weights(kl.estimate_moments(linear, linear, pairs))
    with pytest.warns(UserWarning, match=r"negative weights have \d+ % of the sum of moduli"):
        weighted = found.weighted(pairs, linear)
    assert weighted.weights.min() == 0
    worse = kl.lagged_pairs((x, 0.999 * x + 3.0 + 0.3 * rng.normal(size=x.shape)))
    found = kl.equilibrium_weights(kl.estimate_moments(linear, linear, worse))
    flipped = EquilibriumWeights(-found.coefficients, 1, 1.0, 0.5, np.full(2, np.nan), None, ())
    with pytest.raises(ValueError, match="negative weights have"):
        flipped.weighted(worse, linear)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl.estimate_moments(lambda x: x, lambda x: x, chain_pairs(0)), "the constant in their span"),
        (lambda: kl.estimate_moments(one_hot, one_hot, chain_pairs(0).both_ways()), "in equilibrium already"),
    ],
)
def test_moments_that_do_not_do_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        kl.equilibrium_weights(make())


def test_features_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"features must have shape \(n, 3\); got \(4, 2\)"):
        estimate(chain_pairs(0)).at(np.ones((4, 2)))


# ---- a landscape -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FourStarts(FourWellLandscape2D):
    def _draw_stationary(self, rng, size):
        return self.wells[rng.choice(4, size=size, p=[0.55, 0.15, 0.15, 0.15])]


def wells_of(x):
    return torch.nn.functional.one_hot(2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), 4).double()


def bumps(x):
    line = torch.linspace(-1.6, 1.6, 6, dtype=torch.float64)
    distance = torch.cdist(x.double(), torch.cartesian_prod(line, line))
    return torch.cat([torch.ones(len(x), 1, dtype=torch.float64), torch.exp(-2 * distance**2)], dim=1)


@pytest.mark.slow
def test_four_off_equilibrium_starts_recover_the_populations():
    """Two draws of 1,000 short runs from the minima of four wells; `benchmarks/trust.py --only weights` has more."""
    reference = FourWellLandscape2D().spectrum(lag=1, n_modes=2)
    exact = reference.weights @ wells_of(torch.from_numpy(reference.points)).numpy()
    for seed in range(2):
        pairs = kl.lagged_pairs(FourStarts().simulate(n_trajectories=1000, n_steps=8, seed=seed))
        moments = kl.estimate_moments(bumps, bumps, pairs, observables=wells_of, names=("M_f", "T_ff"))
        found = kl.equilibrium_weights(moments, kl.Bootstrap(200))
        low, high = found.means.equilibrium_mean_interval.values
        assert np.sum((low <= exact) & (exact <= high)) >= 3
        plain = wells_of(pairs.x).numpy().mean(axis=0)
        assert not ((low <= plain) & (plain <= high)).all()
