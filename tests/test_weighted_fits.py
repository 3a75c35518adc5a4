"""Fits to weighted pairs: weights of 1 change nothing, integer weights refine as repeated pairs, biased starts."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr

import koopman_lora as kl
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.epoch_scores import HeldOutScores
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.refinement import refine
from koopman_lora.systems import LinearGaussian, MuellerBrown, NoisyRotation
from koopman_lora.systems._grid import boltzmann_weights, jittered
from koopman_lora.systems.mueller_brown import REFERENCE_SPACING, _landscape

# of what short fits to few pairs warn of
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SYSTEM = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
DATA = SYSTEM.simulate(n_trajectories=2, n_steps=700, seed=0)
QUICK = {"n_modes": 3, "hidden_dims": (8,), "n_epochs": 2}


def fitted(data=DATA, sample_weight=None, **settings):
    return kl.KoopmanLoRA(**(QUICK | settings)).fit(data, sample_weight=sample_weight)


@pytest.mark.slow
@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("weights", [np.ones((2, 700)), [0.2, 0.2]], ids=["per frame", "per trajectory"])
def test_weights_of_one_change_nothing_bitwise(weights, reversible):
    plain, weighted = fitted(reversible=reversible), fitted(sample_weight=weights, reversible=reversible)
    xr.testing.assert_identical(plain.spectrum_.drop_attrs(), weighted.spectrum_.drop_attrs())
    xr.testing.assert_identical(plain.intervals().drop_attrs(), weighted.intervals().drop_attrs())
    assert plain.scores() == weighted.scores()
    for a, b in zip(plain.model_.parameters(), weighted.model_.parameters(), strict=True):
        assert torch.equal(a, b)
    assert str(plain.summary()) == str(weighted.summary())


WEIGHTS = np.random.default_rng(1).integers(1, 4, size=(2, 700)).astype(float)


@pytest.mark.slow
def test_a_weighted_fit_is_saved_and_opened_with_its_weights(tmp_path):
    estimator = fitted(sample_weight=WEIGHTS)
    folder = estimator.save(tmp_path / "fit")
    pairs = lagged_pairs(DATA, weights=WEIGHTS)
    opened = kl.open_analysis(folder, pairs)
    assert opened.scores() == estimator.scores()
    assert str(opened.summary()) == str(estimator.summary())
    assert "weighted as" in str(estimator.summary())
    assert opened.moments.n_effective == pytest.approx(pairs.n_effective)
    assert opened.select_n_modes().n_null == estimator.select_n_modes().n_null
    with pytest.raises(ValueError, match="data are not those of the fit"):
        kl.open_analysis(folder, DATA)


@pytest.mark.slow
def test_what_is_asked_of_a_weighted_fit_counts_weights():
    rare = np.where(DATA.values[..., 0] > 0, 1.0, 1e-3)
    estimator = fitted(sample_weight=rare)
    assert np.allclose(estimator.moments_.M_f[0, 0], 1.0)
    mean = np.average(estimator.features(estimator.pairs_.x), axis=0, weights=estimator.pairs_.weights)
    assert np.allclose(mean[1:], 0.0, atol=1e-5)  # normalised by the weighted law
    coarse = estimator.coarse_grain(2)
    assert coarse.attrs["n_pairs"] == len(estimator.pairs_)
    assert estimator.input_importance(bootstrap=kl.Bootstrap(20)).sigma_loss.shape == (2, 3)
    scanned = estimator.scan_lags(DATA, [1, 2], sample_weight=rare)
    assert scanned.timescales.values[0, 1] == pytest.approx(estimator.spectrum_.timescales.values[1], rel=1e-6)
    other = estimator.scan_lags(DATA, [1, 2])
    assert other.timescales.values[0, 1] != pytest.approx(scanned.timescales.values[0, 1], rel=1e-3)
    refits = estimator.refits(8)
    assert refits.function_band(DATA[0, :5]).functions_interval.shape == (2, 5, 3)
    assert 0 < refits.intervals().canonical_singular_values_interval.values[0, 1] < 1


@pytest.mark.slow
def test_several_fits_agree_at_weighted_states():
    fits = fitted(sample_weight=WEIGHTS, n_fits=2).fitted().fitted.fits
    assert fits.overlap.values[int(fits.attrs["best"])].diagonal() == pytest.approx(1.0)


@pytest.mark.parametrize("both_ways", [False, True])
def test_refinement_solves_what_repeated_pairs_would(both_ways):
    split = split_pairs(lagged_pairs([part[:450] for part in DATA]))  # few, also repeated: held-out ones choose
    rng = np.random.default_rng(0)
    solved = []
    weights = [rng.integers(1, 4, size=len(pairs)).astype(float) for pairs in split]
    for is_weighted in (True, False):
        sides = []
        for pairs, own in zip(split, weights, strict=True):
            pairs = pairs.both_ways() if both_ways else pairs
            rows = np.repeat(np.arange(len(pairs)), own.astype(int))
            sides.append(pairs.weighted(own) if is_weighted else pairs.select(rows))
        torch.manual_seed(0)
        model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), learn_svals=True, has_centering=True, shared_encoder=True)
        model = model.double()
        result = refine(model, Split.given(*sides), thresholds=(1e-2, 1e-4))
        solved.append((result, model.svals_array()))
    (found, svals), (expected, expected_svals) = solved
    assert np.allclose(found.scores, expected.scores, rtol=1e-10)
    assert (found.start, found.threshold) == (expected.start, expected.threshold)
    assert np.allclose(svals, expected_svals, rtol=1e-9)
    assert np.allclose(found.validation.sigma, expected.validation.sigma, rtol=1e-9)
    assert found.validation.scores() == pytest.approx(expected.validation.scores(), rel=1e-9)


@pytest.mark.parametrize("both_ways", [False, True])
def test_scores_of_epochs_are_those_of_repeated_pairs(both_ways):
    pairs = lagged_pairs(DATA)
    pairs = pairs.both_ways() if both_ways else pairs
    weights = np.random.default_rng(2).integers(0, 3, size=len(pairs)).astype(float)
    model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), has_centering=True, shared_encoder=True).double()
    repeated = pairs.select(np.repeat(np.arange(len(pairs)), weights.astype(int)))
    found, expected = (HeldOutScores(model, side).score(1).value for side in (pairs.weighted(weights), repeated))
    assert found == pytest.approx(expected, rel=1e-10)


# ---- starts under a bias ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BiasedStarts(MuellerBrown):
    """Starts drawn in U + bias, a weak harmonic one about the higher saddle; the dynamics are those of U."""

    def bias(self, x):
        return 15.0 * np.sum((x - np.array([-0.82, 0.62])) ** 2, axis=-1)

    def _draw_stationary(self, rng, size):
        axes, energy = _landscape(self.temperature, REFERENCE_SPACING / 2)
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        shares = boltzmann_weights(energy + self.bias(grid) / self.temperature)
        cells = np.unravel_index(rng.choice(energy.size, size=size, p=shares.ravel()), energy.shape)
        points = np.stack([axis[i] for axis, i in zip(axes, cells, strict=True)], axis=-1)
        return jittered(points, REFERENCE_SPACING / 2, rng)


@pytest.mark.slow
def test_weights_of_biased_starts_recover_exact_timescales():
    """Weights exp(bias / kT) of whole runs; `benchmarks/trust.py --only weights` has more draws, and networks."""
    system, reference = BiasedStarts(), MuellerBrown().spectrum(lag=1, n_modes=3)
    exact, covered = reference.to_dataset().timescales.values[1], []
    functions = lambda x: reference.left(x.numpy())  # noqa: E731
    for seed in range(3):
        runs = system.simulate(n_trajectories=6000, n_steps=4, seed=seed)
        weighted = lagged_pairs(runs, weights=np.exp(system.bias(runs.values[:, 0]) / system.temperature)).both_ways()
        bounds = []
        for pairs in (weighted, weighted.weighted(np.ones(len(weighted)))):
            moments = kl.estimate_moments(functions, functions, pairs)
            bounds.append(kl.bootstrap_intervals(moments).timescales_interval.values[:, 1])
        covered.append([low <= exact <= high for low, high in bounds])
    assert np.sum(covered, axis=0).tolist()[1] == 0
    assert np.sum(covered, axis=0).tolist()[0] >= 2


@pytest.mark.slow
def test_weights_undo_a_bias_of_the_starts_in_linear_functions():
    """A rotation whose starts crowd on one side: weighted singular values are the exact ones, others are not."""
    system = NoisyRotation(omega=0.5, noise=0.5)
    runs = system.simulate(n_trajectories=20_000, n_steps=2, seed=0)
    angle = np.arctan2(runs.values[:, 0, 1], runs.values[:, 0, 0])
    density = np.exp(2 * np.cos(angle))
    chosen = np.random.default_rng(0).choice(20_000, size=20_000, p=density / density.sum())
    weighted = lagged_pairs(list(runs.values[chosen]), weights=1 / density[chosen])
    exact = system.spectrum(lag=1, n_modes=3).singular_values[1:]
    ones = lambda x: torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1)  # noqa: E731
    bounds = [
        kl.bootstrap_intervals(kl.estimate_moments(ones, ones, pairs)).canonical_singular_values_interval.values[:, 1:]
        for pairs in (weighted, weighted.weighted(np.ones(len(weighted))))
    ]
    (low, high), (other_low, other_high) = bounds
    assert ((low <= exact) & (exact <= high)).all()
    assert not ((other_low <= exact) & (exact <= other_high)).all()


@pytest.mark.slow
def test_a_fit_tells_weights_of_equilibrium_to_fit_again_with():
    """Runs that start away from the middle of a stable linear process: the mean of equilibrium is 0."""
    rng = np.random.default_rng(0)
    x = np.empty((400, 8, 2))
    x[:, 0] = [2.0, 0.0] + 0.5 * rng.normal(size=(400, 2))
    for t in range(1, 8):
        x[:, t] = x[:, t - 1] @ np.array([[0.8, -0.1], [0.3, 0.5]]) + 0.6 * rng.normal(size=(400, 2))
    estimator = fitted(list(x), n_modes=6, hidden_dims=(16,))
    found = estimator.equilibrium_weights(bootstrap=kl.Bootstrap(100))
    low, high = found.means.equilibrium_mean_interval.values
    assert ((low <= 0) & (0 <= high)).all()
    assert x[:, :-1, 0].mean() > high[0]
    weighted = found.weighted(estimator.pairs_, estimator.model_.f)
    again = fitted(weighted)
    mean = np.average(weighted.x, axis=0, weights=weighted.weights)
    assert np.abs(mean[0]) < 0.5 * x[:, :-1, 0].mean()
    assert again.pairs_.n_effective == weighted.n_effective < len(weighted)
