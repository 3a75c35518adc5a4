import copy

import numpy as np
import pytest
import torch
from torch import nn

from koopman_lora._linalg import whitened_svd
from koopman_lora.accumulation import estimate_moments
from koopman_lora.agreement import captured_share
from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.encoders import CNN, MLP, PeriodicEmbedding
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.model import KoopmanLoRAModel, NotCalibratedError
from koopman_lora.moments import CROSS
from koopman_lora.systems import LinearGaussian, NoisyLogisticMap, NoisyRotation
from koopman_lora.training import fit, freeze, raw_moments, train
from koopman_lora.training_options import TrainingOptions

ROTATION = NoisyRotation(omega=0.7, noise=0.4)
PAIRS = lagged_pairs(ROTATION.simulate(n_trajectories=2, n_steps=1500, seed=1))
REFERENCE = ROTATION.spectrum(lag=1, n_modes=21)


def make_model(n_modes=5, seed=0, pairs=PAIRS, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return KoopmanLoRAModel(pairs.state_shape, n_modes, **({"hidden_dims": (32, 32)} | options))


def share(model, reference=REFERENCE):
    points = torch.from_numpy(reference.points)
    with torch.no_grad():
        return captured_share(model.f(points).double().numpy(), model.g(points).double().numpy(), reference)


# ---- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learn_svals": True},
        {"learn_svals": True, "has_centering": True},
        {"shared_encoder": True, "learn_svals": True, "has_centering": True},
        {"use_batchnorm": True},
    ],
    ids=str,
)
def test_fit_finds_the_singular_functions(options):
    model = make_model(**options)
    fit(model, PAIRS, n_epochs=20)
    assert share(model) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss", [NestedLoRALoss(5, "seq"), NestedLoRALoss(5, None), VAMPLoss("2"), VAMPLoss("E"), DPNetLoss()], ids=repr
)
def test_every_loss_finds_the_singular_functions(loss):
    model = make_model()
    fit(model, PAIRS, loss=loss, n_epochs=20)
    assert share(model) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"has_centering": True}], ids=str)
@pytest.mark.parametrize("nesting", ["jnt", "seq"])
def test_nesting_orders_the_modes(nesting, options):
    system = LinearGaussian(A=[[0.9, 0.0], [0.0, 0.7]], B=np.eye(2))
    pairs = lagged_pairs(system.simulate(n_trajectories=4, n_steps=1500, seed=2))
    model = make_model(3, pairs=pairs, **options)
    fit(model, pairs, loss=NestedLoRALoss(3, nesting), n_epochs=20)
    exact = system.spectrum(lag=1, n_modes=3)  # sigma 1, 0.9, 0.81
    with torch.no_grad():
        f = model.f(pairs.x).double().numpy()
    phi = exact.left(pairs.x.numpy())
    overlap = np.abs(f.T @ phi) / np.linalg.norm(f, axis=0)[:, None] / np.linalg.norm(phi, axis=0)
    assert (np.diag(overlap) > 0.8).all(), overlap


@pytest.mark.slow
def test_defaults_capture_the_noisy_logistic_map():
    system = NoisyLogisticMap(order=20)
    pairs = lagged_pairs(system.simulate(n_trajectories=4, n_steps=5_001, seed=0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel(1, 8)
    fit(model, pairs)
    assert share(model, system.spectrum(lag=1, n_modes=21)) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CNN", "periodic", "users own"])
def test_encoders_of_every_kind_are_trained(kind):
    if kind == "CNN":  # a bump on a ring, drawn as an image
        angle = torch.atan2(PAIRS.x[:, 1], PAIRS.x[:, 0]), torch.atan2(PAIRS.x_next[:, 1], PAIRS.x_next[:, 0])
        grid = torch.linspace(-1, 1, 12)
        x, x_next = (
            torch.exp(-4 * ((grid[None, :, None] - a.cos()[:, None, None]) ** 2 + (grid - a.sin()[:, None, None]) ** 2))
            for a in angle
        )
        pairs, make = lagged_pairs((x.float(), x_next.float()), lag=1), lambda: CNN(1, 4, (4, 8), hidden_dim=16)
    else:
        x, x_next = (torch.atan2(s[:, 1:], s[:, :1]) for s in (PAIRS.x, PAIRS.x_next))
        pairs = lagged_pairs((x, x_next), lag=1)
        body = {"periodic": lambda: MLP(2, 4, (16,)), "users own": lambda: nn.Linear(2, 4)}[kind]
        make = lambda: nn.Sequential(PeriodicEmbedding(), body())  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel.from_encoders(pairs.state_shape, 5, make(), make(), has_centering=True)
    result = fit(model, pairs, n_epochs=10, options=TrainingOptions(standardize=kind == "CNN"))
    wanted = (ROTATION.spectrum(1, 3).singular_values ** 2).sum()  # the linear layer catches three modes
    assert result.history.held_out_vamp_2.max() > 0.9 * wanted


# ---- reproducible, and leaves no trace -------------------------------------------------------------------------------


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("options", [{}, {"learn_svals": True, "has_centering": True}])
def test_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone(options):
    results = []
    for draw_before in (0, 7):
        torch.manual_seed(99 + draw_before)
        np.random.seed(5 + draw_before)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype()  # noqa: NPY002
        model = make_model(**options)
        fit(model, PAIRS, seed=3, n_epochs=4)
        after = torch.get_rng_state(), np.random.get_state()[1], torch.get_default_dtype()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
        results.append(weights(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    other = make_model(**options)
    fit(other, PAIRS, seed=4, n_epochs=4)
    assert not torch.equal(other.encoders.weights[0], results[0]["encoders.weights.0"])


class Infinite(NestedLoRALoss):
    def forward(self, f, g, svals=None):
        return super().forward(f, g, svals) * torch.inf


def test_random_state_is_left_alone_by_a_failing_fit():
    before = torch.get_rng_state()
    with pytest.raises(NonFiniteLossError):
        fit(make_model(), PAIRS, loss=Infinite(5), n_epochs=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_pairs_are_not_changed():
    x, x_next = PAIRS.x.clone(), PAIRS.x_next.clone()
    fit(make_model(), PAIRS, n_epochs=4)
    assert torch.equal(PAIRS.x, x)
    assert torch.equal(PAIRS.x_next, x_next)


def test_training_goes_on_from_where_it_was():
    model = make_model(learn_svals=True, has_centering=True)
    first = fit(model, PAIRS, n_epochs=8)
    middle = copy.deepcopy(model)
    second = fit(model, PAIRS, n_epochs=4, options=TrainingOptions(learning_rate=1e-3))
    assert second.history.held_out_vamp_2.max() > first.history.held_out_vamp_2.max() - 0.02
    assert second.history.loss[0] < first.history.loss[0]
    assert not torch.equal(middle.encoders.weights[0], model.encoders.weights[0])
    assert model.is_calibrated


# ---- what it leaves in the model -------------------------------------------------------------------------------------


def test_calibration_and_svals_are_those_of_all_training_pairs():
    model = make_model(learn_svals=True, has_centering=True)
    result = fit(model, PAIRS, n_epochs=4)
    with torch.no_grad():
        f, g = model.f(result.split.training.x).double(), model.g(result.split.training.x_next).double()
    for features in (f, g):
        assert torch.allclose(features.square().mean(0), torch.ones(5).double(), atol=1e-5)
        assert features[:, 1:].mean(0).abs().max() < 1e-5
    # at the minimum of the un-nested loss over svals: no step along any of them lowers it
    M_f, M_g, T = f.T @ f / len(f), g.T @ g / len(g), f.T @ g / len(f)
    s = model.svals.detach().double()
    gradient = -2 * T.diagonal() + 2 * (M_f * M_g.T) @ s
    inside = (s > 1e-6) & (s < 1 - 1e-6)
    assert inside.sum() >= 2
    assert gradient[inside].abs().max() < 1e-4


def test_train_is_fit_without_its_last_pass():
    trained, fitted = (make_model(learn_svals=True, has_centering=True) for _ in "ab")
    split = split_pairs(PAIRS)
    train(trained, split, n_epochs=2)
    with pytest.raises(NotCalibratedError, match="has not been calibrated"):
        trained.f(PAIRS.x)
    moments = freeze(trained, raw_moments(trained, split.training))
    fit(fitted, split, n_epochs=2)
    for name, value in trained.state_dict().items():
        assert torch.allclose(value, fitted.state_dict()[name], rtol=1e-12), name
    # the moments that come back are those of the normalised features
    assert np.allclose(moments.M_f, estimate_moments(trained.f, trained.g, split.training, names=CROSS).M_f, atol=1e-5)
    assert np.allclose(np.diag(moments.M_f), 1, atol=1e-6)


def test_freezing_a_model_that_does_not_normalise_changes_nothing():
    model = make_model()
    before, raw = weights(model), raw_moments(model, PAIRS)
    moments = freeze(model, raw)
    for name in CROSS:
        assert np.allclose(getattr(moments, name), getattr(raw, name), rtol=1e-14)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_svals_of_refined_features_are_their_canonical_values():
    model = make_model(learn_svals=True, has_centering=True)
    fit(model, PAIRS, n_epochs=2)
    raw = raw_moments(model, PAIRS)
    moments = freeze(model, raw, is_refined=True)
    canonical = whitened_svd(moments.M_f, moments.T_fg, moments.M_g).values
    assert np.allclose(model.svals_array(), canonical, atol=1e-6)
    freeze(model, raw)
    assert not np.allclose(model.svals_array(), canonical, atol=1e-3)  # features are not orthonormal yet


@pytest.mark.parametrize("standardize", [True, False])
def test_standardisation_is_that_of_the_training_pairs(standardize):
    model = make_model()
    result = fit(model, PAIRS, options=TrainingOptions(standardize=standardize), n_epochs=4)
    both = torch.cat([result.split.training.x, result.split.training.x_next])
    mean, scale = (both.mean(0), both.std(0, correction=0)) if standardize else (torch.zeros(2), torch.ones(2))
    assert torch.allclose(model.standardize.mean, mean.double(), atol=1e-12)
    assert torch.allclose(model.standardize.scale, scale.double(), atol=1e-12)


def test_units_travel_in_the_model():
    pairs = lagged_pairs(ROTATION.simulate(n_steps=400), lag=3, dt=0.2, time_unit="ps")
    model = make_model()
    fit(model, pairs, n_epochs=4)
    assert model.clock == pairs.clock == Clock(3, 0.2, "ps")


# ---- pairs and splits ------------------------------------------------------------------------------------------------


def test_held_out_pairs_must_be_of_the_same_lag():
    other = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=500, seed=9), lag=2)
    with pytest.raises(ValueError, match=r"clocks must be one and the same .*lag=1.*lag=2"):
        Split.given(PAIRS, other)


@pytest.mark.parametrize("data", [PAIRS.x, (PAIRS.x, PAIRS.x_next), None], ids=["tensor", "tuple", "None"])
def test_pairs_without_a_clock_are_refused(data):
    with pytest.raises(TypeError, match=r"pairs must be LaggedPairs or a Split of them; got .* Use kl.lagged_pairs"):
        fit(make_model(), data)


def test_pairs_of_unknown_lag_ask_for_it_before_they_are_split():
    pairs = lagged_pairs((PAIRS.x, PAIRS.x_next))
    with pytest.raises(
        ValueError, match=r"the lag of these pairs is unknown.*lagged_pairs\(\(x, x_next\), lag=\.\.\.\)"
    ):
        fit(make_model(), pairs, n_epochs=1)
    model = make_model()
    assert fit(model, split_pairs(pairs, 0), n_epochs=1).split.held_out is None  # nothing to split: no lag is needed
    assert model.clock == Clock()


def test_nothing_held_out():
    model = make_model()
    result = fit(model, split_pairs(PAIRS, 0), n_epochs=4)
    assert result.split.held_out is None
    assert len(result.split.training) == len(PAIRS)
    assert "held_out_vamp_2" not in result.history
    assert result.best_epoch == result.history.loss.values.argmin() + 1


def test_split_shares_no_frame_and_is_seeded():
    result = fit(make_model(), PAIRS, seed=2, n_epochs=4)
    train, held = split_pairs(PAIRS, 0.1, seed=2)
    assert torch.equal(result.split.held_out.x, held.x)
    assert torch.equal(result.split.training.x, train.x)
    used = [set(zip(p.trajectory, p.frame, strict=True)) for p in (train, held)]
    used = [pairs | {(t, n + 1) for t, n in pairs} for pairs in used]
    assert not used[0] & used[1]


def test_a_split_is_used_as_it_is_and_handed_on():
    split = split_pairs(PAIRS, 0.25, seed=7)
    assert fit(make_model(), split, n_epochs=1, seed=2).split is split


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive; got 0"),
        ({"batch_size": 4}, "batch_size must be at least n_modes=5 .* got batch_size=4 with"),
        ({"n_epochs": 0}, "n_epochs must be positive; got 0"),
        ({"n_epochs": -3}, "n_epochs must be positive; got -3"),
        ({"loss": NestedLoRALoss(7)}, r"f must have shape \(batch, n_modes=7\); got"),
    ],
)
def test_bad_options(options, message):
    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(model, PAIRS, **({"n_epochs": 4} | options))
    if "loss" not in options:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model.clock == Clock()


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="epochs"):
        fit(make_model(), PAIRS, epochs=3)


def test_states_that_do_not_fit():
    with pytest.raises(ValueError, match=r"model takes states of shape \(3,\); pairs hold \(2,\)"):
        fit(KoopmanLoRAModel(3, 2), PAIRS)
    with pytest.raises(ValueError, match=r"training and held_out must be pairs of one kind .* got \(2,\) and \(1,\)"):
        Split.given(PAIRS, lagged_pairs(np.sin(np.arange(50.0)), time_unit="step"))


def test_too_few_pairs():
    with pytest.raises(ValueError, match="got batch_size=256 with 4 training pairs"):
        fit(make_model(), split_pairs(PAIRS.select(np.arange(4)), 0))
