import copy

import numpy as np
import pytest
import torch
from torch import nn

import koopman_lora as kl
from koopman_lora.accumulation import estimate_moments
from koopman_lora.agreement import captured_share
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.encoder_pairs import NoLinearHeadError
from koopman_lora.encoders import CNN, MLP
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS
from koopman_lora.refinement import refine, validate
from koopman_lora.scores import Scores, Validation, vamp_scores
from koopman_lora.spectrum import model_spectrum
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, NoisyRotation
from koopman_lora.training import fit

SYSTEM = NoisyRotation(omega=0.7, noise=0.4)
PAIRS = lagged_pairs(SYSTEM.simulate(n_trajectories=2, n_steps=1500, seed=1))
REFERENCE = SYSTEM.spectrum(lag=1, n_modes=21)
SPLIT = split_pairs(PAIRS)
IMAGES = lagged_pairs(
    tuple(side.repeat_interleave(18, 1).reshape(-1, 6, 6) + 0 * side[:, :1, None] for side in (PAIRS.x, PAIRS.x_next)),
    lag=1,
)

KINDS = {
    "plain": {},
    "svals": {"learn_svals": True},
    "centred": {"has_centering": True},
    "svals centred": {"learn_svals": True, "has_centering": True},
    "shared": {"shared_encoder": True, "learn_svals": True, "has_centering": True},
    "shared plain": {"shared_encoder": True},
    "batchnorm": {"use_batchnorm": True, "learn_svals": True},
    "one layer": {"hidden_dims": (12,), "activation": "Tanh", "learn_svals": True},
}


def users_own(n_features=5):
    return nn.Sequential(
        nn.Linear(2, 24), nn.Tanh(), nn.Sequential(nn.Identity(), nn.Linear(24, n_features, bias=False))
    )


def make_model(kind, n_epochs=4, pairs=PAIRS):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "users own":
            model = KoopmanLoRAModel.from_encoders(2, 5, users_own(), users_own(), learn_svals=True)
        elif kind == "users own shared":
            model = KoopmanLoRAModel.from_encoders(2, 5, users_own(), learn_svals=True)
        elif kind == "CNN":
            encoders = (CNN(1, 5, (4,), hidden_dim=16) for _ in "fg")
            model = KoopmanLoRAModel.from_encoders((6, 6), 5, *encoders, learn_svals=True)
        else:
            model = KoopmanLoRAModel(pairs.state_shape, 5, **({"hidden_dims": (24, 16)} | KINDS[kind]))
    if n_epochs:
        fit(model, pairs, n_epochs=n_epochs)
    return model


def pairs_of(kind):
    return IMAGES if kind == "CNN" else PAIRS


EVERY = [*KINDS, "users own", "users own shared", "CNN"]


@pytest.mark.parametrize("kind", EVERY)
def test_refined_models_agree_with_their_own_spectrum(kind):
    pairs = pairs_of(kind)
    model = make_model(kind, pairs=pairs)
    # un-trained heads, so that there is something to win
    result = refine(model, split_pairs(pairs))
    assert result.is_refined
    spectrum = model_spectrum(model, estimate_moments(model.f, model.g, pairs))
    canonical = spectrum.canonical_singular_values.values
    # at most as wide as the span of the threshold; features come in single precision
    if model.learn_svals:
        assert np.allclose(spectrum.svals, canonical, atol=1e-6)
        features = estimate_moments(model.f, model.g, pairs)
    else:  # sqrt(sigma) is in the features
        features = estimate_moments(model.f, model.g, pairs).transformed(*[np.diag(canonical**-0.5)] * 2)
    assert np.allclose(features.M_f, np.eye(5), atol=1e-4)
    assert np.allclose(features.M_g, np.eye(5), atol=1e-4)
    if kind != "centred":  # there features[0] is the constant 1 already
        assert np.allclose(spectrum.singular_values, canonical, atol=1e-4)
        assert np.allclose(np.abs(spectrum.K_matrix), np.diag(canonical), atol=1e-3)
    assert np.isclose(canonical[0], 1, atol=1e-6)
    assert not model.training


def own_moments(model, pairs):
    return estimate_moments(*model.raw_maps(), pairs, names=CROSS)


def linear_moments(pairs):
    def functions(x):
        return np.hstack([np.ones((len(x), 1)), x.numpy()])

    return estimate_moments(functions, functions, pairs, names=CROSS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svals centred", "centred", "shared"])
def test_scores_are_held_out_vamp_2_and_the_choice_is_among_the_best(kind):
    pairs = lagged_pairs(SYSTEM.simulate(n_trajectories=2, n_steps=1000, seed=1))  # few: held-out ones choose
    for n_epochs in (0, 1, 10):
        model = make_model(kind, n_epochs, pairs).eval()
        before = copy.deepcopy(model)
        split = split_pairs(pairs, seed=4)
        result = refine(model, split)
        assert result.starts == ("linear", "trained")
        trained = vamp_scores(own_moments(before, split.training), own_moments(before, split.held_out), 5)
        linear = vamp_scores(linear_moments(split.training), linear_moments(split.held_out))
        assert np.isclose(result.score("trained"), trained.vamp_2, rtol=1e-5)
        assert np.isclose(result.score("linear"), linear.vamp_2, rtol=1e-5)
        chosen = result.score(result.start, result.threshold)
        assert np.isclose(chosen, result.validation.scores().vamp_2, rtol=1e-9)
        assert chosen > result.scores.max() - 0.1
        assert result.is_refined == np.isfinite(result.threshold)
        with pytest.raises(ValueError, match="start='own', threshold=inf was not tried"):
            result.score("own")


@pytest.mark.slow
def test_where_only_linear_functions_can_be_learned_the_answer_is_linear_vamp():
    """Scarce data in many coordinates: a network memorises them, and its span is worth little elsewhere."""
    system = LinearGaussian(A=np.diag([0.9, *[0.0] * 19]), B=np.diag([0.19**0.5, *[1.0] * 19]))
    mixing = np.random.default_rng(0).normal(size=(20, 20))
    fresh = lagged_pairs(system.simulate(n_steps=20_000, seed=99).values[0] @ mixing)
    for seed in range(3):
        pairs = lagged_pairs(system.simulate(n_steps=1000, seed=seed).values[0] @ mixing)
        estimator = kl.KoopmanLoRA(n_modes=3, n_epochs=60, seed=seed).fit(pairs)
        found = vamp_scores(estimator.moments_, estimator.estimate_moments(fresh))
        linear = vamp_scores(linear_moments(pairs), linear_moments(fresh), 3)
        assert found.vamp_2 > linear.vamp_2 - 0.02
        assert estimator.refinement_.start == "linear"


def test_states_of_any_offset_and_unit_refine_alike():
    moved = lagged_pairs((1e5 + 1e-3 * PAIRS.x, 1e5 + 1e-3 * PAIRS.x_next), lag=1)
    values = []
    for pairs in (lagged_pairs((PAIRS.x, PAIRS.x_next), lag=1), moved):
        model = make_model("svals centred", 0)
        split = Split.given(pairs.select(np.arange(2000)), pairs.select(np.arange(2001, len(pairs))))
        fit(model, split, n_epochs=2)
        refine(model, split)
        values.append(model.svals_array())
    assert np.allclose(*values, atol=1e-3)


@pytest.mark.parametrize("kind", ["svals centred", "users own"])
def test_validation_is_the_training_pairs_solution_at_held_out_pairs(kind):
    model = make_model(kind)
    split = split_pairs(PAIRS, 0.25, seed=4)
    result = refine(model, split)
    train, test = split
    assert result.validation.moments.n_pairs == len(result.validation.phi) == len(test)
    # the refined functions come from all pairs: nearly the same solution, so nearly the same scores
    there = vamp_scores(own_moments(model, train), own_moments(model, test), 5)
    assert np.allclose(there, result.validation.scores(), rtol=0.02)
    assert result.validation.sigma[0] == 1
    assert np.allclose(result.validation.phi[:, 0], 1)


def frames_of(pairs):
    here = set(zip(pairs.trajectory.tolist(), pairs.frame.tolist(), strict=True))
    return here | {(trajectory, frame + pairs.clock.lag) for trajectory, frame in here}


def test_validation_sees_no_frame_that_was_trained_on(monkeypatch):
    """The split travels with the fit: a second one, of another seed, would hold out pairs that were trained on."""
    of_functions, seen = Validation.of_functions, []

    def spy(sigma, phi, psi, pairs, backward=None):
        seen.append(pairs)
        return of_functions(sigma, phi, psi, pairs, backward)

    monkeypatch.setattr(Validation, "of_functions", spy)
    model = make_model("svals centred", 0)
    result = kl.fit(model, PAIRS, seed=3, n_epochs=2)
    validation = kl.refine(model, result.split).validation
    (validated,) = seen
    assert len(validation.phi) == len(validated) > 100
    assert not frames_of(validated) & frames_of(result.split.training)
    assert frames_of(validated) == frames_of(result.split.held_out)
    # the split of the default seed would have: so this can fail
    assert frames_of(SPLIT.held_out) & frames_of(result.split.training)


@pytest.mark.parametrize("kind", ["plain", "svals centred", "shared"])
def test_validate_scores_the_models_own_features(kind):
    model = make_model(kind)
    validation = validate(model, SPLIT)
    wanted = vamp_scores(own_moments(model, SPLIT.training), own_moments(model, SPLIT.held_out))
    assert np.allclose(validation.scores(), wanted, rtol=1e-5)
    assert len(validation.phi) == len(SPLIT.held_out)


@pytest.mark.slow
def test_refined_functions_are_never_worse_on_fresh_data():
    """Heavy tails: a large whitened trunk over-fits a few far states, and scores terribly on new ones."""
    system = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    fresh = lagged_pairs(system.simulate(n_trajectories=4, n_steps=10_000, seed=99))
    for seed in range(3):
        pairs = lagged_pairs(system.simulate(n_trajectories=4, n_steps=500, seed=seed))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = KoopmanLoRAModel(2, 6, hidden_dims=(32, 32), learn_svals=True, has_centering=True)
        fit(model, pairs, n_epochs=60, seed=seed)
        plain = vamp_scores(own_moments(model, pairs), own_moments(model, fresh)).vamp_e
        refine(model, split_pairs(pairs, seed=seed))
        assert vamp_scores(own_moments(model, pairs), own_moments(model, fresh)).vamp_e >= plain - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "svals centred", "shared"])
def test_refinement_captures_more_of_the_truth(kind):
    model = make_model(kind, n_epochs=6)
    shares = []
    for _ in range(2):
        points = torch.from_numpy(REFERENCE.points)
        with torch.no_grad():
            f, g = model.f(points).double().numpy(), model.g(points).double().numpy()
        shares.append(captured_share(f, g, REFERENCE))
        refine(model, SPLIT)
    assert shares[1] > shares[0]
    assert shares[1] > 0.97


def test_the_span_of_the_trunk_is_searched_exactly():
    """A linear problem: the trunk holds the exact singular functions among noise; refinement digs them out."""

    class Trunk(nn.Module):
        def forward(self, x):
            z = torch.complex(x[:, 0], x[:, 1])
            return torch.stack([z.real, z.imag, (z**2).real, (z**2).imag, z.real**3, z.imag**5], dim=1)

    def encoder():
        return nn.Sequential(Trunk(), nn.Linear(6, 5))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel.from_encoders(2, 5, encoder(), encoder()).double()
    result = refine(model, SPLIT)
    assert result.is_refined
    points = torch.from_numpy(REFERENCE.points)
    with torch.no_grad():
        assert captured_share(model.f(points).numpy(), model.g(points).numpy(), REFERENCE) > 0.998


@pytest.mark.parametrize("kind", ["svals", "svals centred"])
def test_where_nothing_is_won_the_trained_span_stays(kind, monkeypatch):
    monkeypatch.setattr("koopman_lora.model.LINEAR_ENTRIES", 0)  # as for a very large state
    model = make_model(kind, n_epochs=12)
    before = copy.deepcopy(model)
    # so large that next to nothing of what lies beyond the trained features is let in
    result = refine(model, SPLIT, thresholds=(1e12, 1e13))
    assert result.start == "trained"
    assert not result.is_refined
    assert result.threshold == np.inf
    for old, new in ((before.f, model.f), (before.g, model.g)):
        with torch.no_grad():
            old_values, new_values = (m(PAIRS.x).double().numpy() for m in (old, new))
        ones = np.ones((len(old_values), 1))
        basis = np.linalg.qr(np.hstack([ones, old_values]))[0]
        assert np.allclose(basis @ (basis.T @ new_values), new_values, atol=1e-3)
    spectrum = model_spectrum(model, estimate_moments(model.f, model.g, PAIRS))
    assert np.allclose(spectrum.svals, spectrum.canonical_singular_values, atol=1e-6)


def test_a_lost_direction_is_found_again():
    model = make_model("svals centred", n_epochs=6)
    with torch.no_grad():
        for tensor in (model.encoders.weights[-1], model.encoders.biases[-1]):
            tensor[..., 1] = tensor[..., 0]
    result = refine(model, SPLIT)
    assert np.isfinite(result.scores).all()
    spectrum = model_spectrum(model, estimate_moments(model.f, model.g, PAIRS))
    assert np.allclose(spectrum.canonical_singular_values, REFERENCE.singular_values[:5], atol=0.05)


def test_refining_twice_changes_nothing_more():
    model = make_model("svals centred")
    refine(model, SPLIT)
    first = model_spectrum(model, estimate_moments(model.f, model.g, PAIRS))
    refine(model, SPLIT)
    second = model_spectrum(model, estimate_moments(model.f, model.g, PAIRS))
    assert np.allclose(first.canonical_singular_values, second.canonical_singular_values, atol=1e-5)


def test_trunks_are_left_alone_and_heads_of_a_shared_encoder_part():
    model = make_model("shared")
    trunk = model.encoders.trunk_f(model.prepare(PAIRS.x)).clone()
    assert torch.equal(model.encoders.f(PAIRS.x.float()), model.encoders.g(PAIRS.x.float()))
    assert refine(model, SPLIT).is_refined
    assert torch.equal(model.encoders.trunk_f(model.prepare(PAIRS.x)), trunk)
    assert not torch.allclose(model.f(PAIRS.x), model.g(PAIRS.x), atol=0.1)
    assert model.shared_encoder


def test_held_out_pairs_of_ones_own_choose_and_validate_only():
    other = lagged_pairs(SYSTEM.simulate(n_trajectories=1, n_steps=800, seed=8))
    model = make_model("svals")
    result = refine(model, Split.given(PAIRS, other))
    assert result.validation.moments.n_pairs == len(other)
    spectrum = model_spectrum(model, estimate_moments(model.f, model.g, PAIRS))
    assert np.allclose(spectrum.M_f, np.diag(spectrum.svals), atol=1e-4)  # orthonormal over PAIRS alone
    in_sample = vamp_scores(own_moments(model, PAIRS), own_moments(model, other))
    assert np.allclose(in_sample, result.validation.scores(), rtol=1e-4)
    assert isinstance(in_sample, Scores)


def test_noiseless_systems_keep_the_constant_apart():
    """All sigma are 1: any mixture with the constant is as good, but the model has the constant already."""
    circle = NoisyRotation(omega=0.7, noise=0.0)
    pairs = lagged_pairs(circle.simulate(n_trajectories=20, n_steps=200, seed=0))

    def encoder():
        return nn.Sequential(nn.Identity(), nn.Linear(2, 2))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel.from_encoders(2, 3, encoder(), encoder(), learn_svals=True, has_centering=True)
    model.double().eval()
    with torch.no_grad():
        for side in (model.encoders.module_f, model.encoders.module_g):
            side[1].weight[1] = side[1].weight[0] * 1.001  # one direction lost: something to win
    refine(model, split_pairs(pairs))
    spectrum = model_spectrum(model, estimate_moments(model.f, model.g, pairs))
    assert np.allclose(spectrum.canonical_singular_values, 1, atol=1e-6)
    assert np.allclose(spectrum.svals, 1, atol=1e-6)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["f", "g"])
def test_opaque_modules_are_refused_and_not_changed(side):
    opaque = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
    encoders = {"f": MLP(2, 5, (8,)), "g": MLP(2, 5, (8,))} | {side: opaque}
    model = KoopmanLoRAModel.from_encoders(2, 5, encoders["f"], encoders["g"]).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        NoLinearHeadError, match=r"Sequential does not end in an nn.Linear layer, so it has no last hidden"
    ):
        refine(model, SPLIT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"shared_encoder": True}, {"has_centering": True}])
def test_trunks_too_narrow_for_the_modes(options):
    model = KoopmanLoRAModel(2, 6, hidden_dims=(16, 4), **options)
    with pytest.raises(ValueError, match=r"n_modes=6 is more than the last hidden layer can carry \(4 units and the"):
        refine(model, SPLIT)
    refine(KoopmanLoRAModel(2, 5, hidden_dims=(16, 4), **options), SPLIT)  # 4 units and the constant carry 5


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_bad_thresholds(threshold):
    with pytest.raises(ValueError, match=rf"thresholds must be positive; got \(0.1, {threshold}\)"):
        refine(make_model("plain", 0), SPLIT, thresholds=(0.1, threshold))


def test_pairs_instead_of_their_split_are_refused_and_nothing_is_changed():
    model = make_model("svals centred", 1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        TypeError, match=r"split must be the Split that the model was trained on.*got LaggedPairs.*second"
    ):
        kl.refine(model, PAIRS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("ask", [refine, validate])
def test_nothing_held_out_leaves_nothing_to_validate_on(ask):
    with pytest.raises(ValueError, match=r"split holds out no pairs.*use split_pairs\(pairs, 0\.1\)"):
        ask(make_model("plain", 0), split_pairs(PAIRS, 0))


def test_many_pairs_are_not_damped_much():
    """Tried by default: all thresholds for few pairs, those from .1 on for many."""
    wide = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    for n_steps, largest in ((2_000, 1.0), (20_000, 0.1)):
        pairs = lagged_pairs(wide.simulate(n_steps=n_steps, seed=0))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True, has_centering=True)
        result = refine(model, fit(model, pairs, n_epochs=1).split)
        assert result.thresholds[:2].tolist() == [np.inf, largest]
        assert result.thresholds[-1] == 1e-14


def test_of_many_pairs_folds_of_the_training_pairs_choose_and_held_out_ones_nothing():
    many = lagged_pairs(SYSTEM.simulate(n_trajectories=3, n_steps=5100, seed=3))
    noise = lagged_pairs(np.random.default_rng(0).normal(size=(500, 2)), time_unit="step")
    model = make_model("svals centred", 1)
    found = [refine(copy.deepcopy(model), Split.given(many, held_out)) for held_out in (PAIRS, noise)]
    assert np.array_equal(found[0].scores, found[1].scores)
    assert found[0].threshold == found[1].threshold
    fold = block_numbers(many, 20) % 5
    by_hand = [
        vamp_scores(linear_moments(many.select(fold != i)), linear_moments(many.select(fold == i))).vamp_2
        for i in range(5)
    ]
    assert np.isclose(found[0].score("linear"), np.mean(by_hand), rtol=1e-6)
    assert found[0].chosen_by == "folds of the training pairs"
    few = refine(model, Split.given(many.select(np.arange(1_999)), PAIRS))
    assert few.chosen_by == "held-out pairs"


@pytest.mark.parametrize(("n_coordinates", "n_many"), [(3, 2_000), (4, 15_000)])
def test_pairs_of_few_coordinates_are_plenty_sooner(n_coordinates, n_many):
    series = np.random.default_rng(0).normal(size=(n_many + 1, n_coordinates))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel(n_coordinates, 3, hidden_dims=(8,), learn_svals=True, has_centering=True)
    held_out = lagged_pairs(series[:100])
    for n_pairs, judges in ((n_many, "folds of the training pairs"), (n_many - 1, "held-out pairs")):
        split = Split.given(lagged_pairs(series[: n_pairs + 1]), held_out)
        assert refine(copy.deepcopy(model), split).chosen_by == judges


@pytest.mark.parametrize("options", [{}, {"reversible": True}, {"shared_encoder": True}, {"learn_svals": False}])
@pytest.mark.parametrize("n", [800, 3000], ids=["held-out pairs choose", "folds choose"])
def test_of_states_that_take_few_values_the_modes_that_are_not_there_are_0(n, options):
    """Three values have three functions; a chain between them has these singular values, and no more."""
    chain = FiniteMarkovChain(np.array([[8, 2, 0], [1, 8, 1], [0, 2, 8]]) / 10, embedding=np.arange(3.0)[:, None])
    estimator = kl.KoopmanLoRA(6, hidden_dims=(16,), n_epochs=3, **options).fit(chain.simulate(n_steps=n, seed=0))
    sigma = estimator.spectrum_.canonical_singular_values.values
    np.testing.assert_allclose(sigma[:3], chain.spectrum(lag=1, n_modes=3).singular_values, atol=0.07)
    np.testing.assert_allclose(sigma[3:], 0, atol=1e-6)
    assert estimator.summary().modes.verdict.values[3:].tolist() == ["not resolved"] * 3
    assert np.isfinite(estimator.forecast(np.array([[0.0], [2.0]]), steps=2).forecast.values).all()
