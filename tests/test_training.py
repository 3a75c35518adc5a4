import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from koopman_lora.accumulation import estimate_moments
from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.comparison import captured_share
from koopman_lora.data.pairs import lagged_pairs, split_pairs
from koopman_lora.encoders import CNN, MLP, PeriodicEmbedding
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import vamp_scores
from koopman_lora.systems import LinearGaussian, NoisyLogisticMap, NoisyRotation
from koopman_lora.training import fit, optimal_svals

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


QUICK = {"n_epochs": 4, "learning_rate": 1e-2}


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


@pytest.mark.parametrize(
    "loss", [NestedLoRALoss(5, "seq"), NestedLoRALoss(5, None), VAMPLoss("2"), VAMPLoss("E"), DPNetLoss()], ids=repr
)
def test_every_loss_finds_the_singular_functions(loss):
    model = make_model()
    fit(model, PAIRS, loss=loss, n_epochs=20)
    assert share(model) > 0.85


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


@pytest.mark.parametrize("kind", ["CNN", "periodic", "users own"])
def test_encoders_of_every_kind_are_trained(kind):
    if kind == "CNN":  # a bump on a ring, drawn as an image
        angle = torch.atan2(PAIRS.x[:, 1], PAIRS.x[:, 0]), torch.atan2(PAIRS.x_next[:, 1], PAIRS.x_next[:, 0])
        grid = torch.linspace(-1, 1, 12)
        x, x_next = (
            torch.exp(-4 * ((grid[None, :, None] - a.cos()[:, None, None]) ** 2 + (grid - a.sin()[:, None, None]) ** 2))
            for a in angle
        )
        pairs, make = lagged_pairs((x.float(), x_next.float())), lambda: CNN(1, 4, (4, 8), hidden_dim=16)
    else:
        x, x_next = (torch.atan2(s[:, 1:], s[:, :1]) for s in (PAIRS.x, PAIRS.x_next))
        pairs = lagged_pairs((x, x_next))
        body = {"periodic": lambda: MLP(2, 4, (16,)), "users own": lambda: nn.Linear(2, 4)}[kind]
        make = lambda: nn.Sequential(PeriodicEmbedding(), body())  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KoopmanLoRAModel(pairs.state_shape, 5, has_centering=True, encoder_f=make(), encoder_g=make())
    result = fit(model, pairs, n_epochs=10, standardize=kind == "CNN")
    wanted = (ROTATION.spectrum(1, 3).singular_values ** 2).sum()  # the linear layer catches three modes
    assert result.history.held_out_vamp_e.max() > 0.9 * wanted


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
        fit(model, PAIRS, seed=3, **QUICK)
        after = torch.get_rng_state(), np.random.get_state()[1], torch.get_default_dtype()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
        results.append(weights(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    other = make_model(**options)
    fit(other, PAIRS, seed=4, **QUICK)
    assert not torch.equal(other.encoders.weights[0], results[0]["encoders.weights.0"])


def test_pairs_are_not_changed():
    x, x_next = PAIRS.x.clone(), PAIRS.x_next.clone()
    fit(make_model(), PAIRS, **QUICK)
    assert torch.equal(PAIRS.x, x)
    assert torch.equal(PAIRS.x_next, x_next)


# ---- the best state --------------------------------------------------------------------------------------------------


def held_out_score(model, result):
    f, g = (
        lambda x, encode=encode: model.with_constant(encode)(model.prepare(x))
        for encode in (model.encoders.f, model.encoders.g)
    )
    train, test = (estimate_moments(f, g, p, names=CROSS) for p in (result.train, result.held_out))
    return vamp_scores(train, test).vamp_e


@pytest.mark.parametrize("options", [{}, {"learn_svals": True, "has_centering": True}, {"use_batchnorm": True}])
@pytest.mark.parametrize("learning_rate", [1e-3, 0.1])
def test_the_best_state_is_restored(options, learning_rate):
    model = make_model(**options)
    result = fit(model, PAIRS, n_epochs=6, learning_rate=learning_rate)
    scores = result.history.held_out_vamp_e
    # of states that the held-out pairs cannot tell from the best one, the last
    chosen = scores.sel(epoch=result.best_epoch)
    assert result.best_epoch == result.history.attrs["best_epoch"] >= int(scores.epoch[scores.values.argmax()])
    assert scores.max() - chosen < 0.1
    assert np.isclose(held_out_score(model, result), chosen, rtol=1e-5)
    assert result.stop_reason == "finished"
    assert scores.sizes["epoch"] == 6
    assert not model.training


class Spoiling(nn.Module):
    """A loss that trains for some epochs, then pulls the features to zero."""

    def __init__(self, good_calls):
        super().__init__()
        self.left, self.loss = good_calls, NestedLoRALoss(5)

    def forward(self, f, g, svals=None):
        self.left -= 1
        return (
            self.loss(f, g, svals)
            if self.left >= 0
            else (f - f.mean(0)).square().sum() + (g - g.mean(0)).square().sum()
        )


def test_early_stopping_returns_the_state_before_things_went_wrong():
    model = make_model()
    steps = round(len(split_pairs(PAIRS, 0.1)[0]) / 256)
    result = fit(model, PAIRS, loss=Spoiling(3 * steps), n_epochs=30, learning_rate=3e-2, patience=4)
    scores = result.history.held_out_vamp_e.values
    assert result.stop_reason == "early stopping"
    assert len(scores) == scores.argmax() + 1 + 4 < 30
    assert result.best_epoch <= 3
    assert scores[-1] < scores.max() - 0.1
    assert scores[result.best_epoch - 1] > scores.max() - 0.05
    assert np.isclose(held_out_score(model, result), scores[result.best_epoch - 1], rtol=1e-5)


@pytest.mark.slow
def test_outliers_do_not_excuse_a_later_state():
    """Heavy tails: trained too long, the score falls through a few pairs, and with it the certainty of its fall."""
    system = LinearGaussian(A=[[0.9, 0.0], [0.0, 0.7]], B=np.eye(2))
    pairs = lagged_pairs(system.simulate(n_trajectories=4, n_steps=1500, seed=2))
    model = make_model(3, pairs=pairs)
    result = fit(model, pairs, n_epochs=80)
    scores = result.history.held_out_vamp_e
    assert scores.max() - scores[-1] > 0.15  # it did fall
    assert scores.max() - scores.sel(epoch=result.best_epoch) < 0.13


def test_calibration_and_svals_are_those_of_all_training_pairs():
    model = make_model(learn_svals=True, has_centering=True)
    result = fit(model, PAIRS, **QUICK)
    with torch.no_grad():
        f, g = model.f(result.train.x).double(), model.g(result.train.x_next).double()
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


def test_optimal_svals_of_orthonormal_features_are_their_correlations():
    eye, T = np.eye(3)[None], np.diag([1.0, 0.7, -0.2])[None]
    assert np.allclose(optimal_svals(Moments({"M_f": eye, "M_g": eye, "T_fg": T}, np.ones(1)), True), [1, 0.7, 0])
    rng = np.random.default_rng(0)
    F, G = rng.normal(size=(2, 50, 3))
    G += F
    sums = {"M_f": F.T @ F, "M_g": G.T @ G, "T_fg": F.T @ G}
    moments = Moments({name: value[None] for name, value in sums.items()}, np.array([50.0]))
    found = optimal_svals(moments, False)
    value = lambda s: -2 * s @ np.diag(moments.T_fg) + s @ (moments.M_f * moments.M_g.T) @ s  # noqa: E731
    for shift in np.vstack([np.eye(3), -np.eye(3)]) * 1e-3:
        assert value(found + shift) > value(found)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_held_out_pairs_of_ones_own():
    other = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=500, seed=9))
    model = make_model()
    result = fit(model, PAIRS, held_out=other, **QUICK)
    assert result.held_out is other
    assert result.train is PAIRS
    chosen = result.history.held_out_vamp_e.sel(epoch=result.best_epoch)
    assert np.isclose(held_out_score(model, result), chosen, rtol=1e-5)


def test_held_out_pairs_must_be_of_the_same_lag():
    other = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=500, seed=9), lag=2)
    with pytest.raises(ValueError, match=r"held_out .*lag 2.*lag 1"):
        fit(make_model(), PAIRS, held_out=other, **QUICK)


def test_nothing_held_out():
    model = make_model()
    result = fit(model, PAIRS, held_out=0, **QUICK)
    assert result.held_out is None
    assert len(result.train) == len(PAIRS)
    assert "held_out_vamp_e" not in result.history
    assert result.best_epoch == result.history.loss.values.argmin() + 1


def test_split_shares_no_frame_and_is_seeded():
    result = fit(make_model(), PAIRS, seed=2, **QUICK)
    train, held = split_pairs(PAIRS, 0.1, seed=2)
    assert torch.equal(result.held_out.x, held.x)
    assert torch.equal(result.train.x, train.x)


def test_gradient_clip_bounds_every_step():
    """A step of plain size cannot exceed the clip: watched through the gradients that the optimiser receives."""
    norms = []

    class Loss(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            return 1e3 * super().forward(f, g, svals)

    model = make_model()

    def watch(optimizer, args, kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))

    handle = register_optimizer_step_pre_hook(watch)
    try:
        fit(model, PAIRS, loss=Loss(5), gradient_clip=0.5, **QUICK)
        clipped = list(norms)
        norms.clear()
        fit(make_model(), PAIRS, loss=Loss(5), **QUICK)
    finally:
        handle.remove()
    assert max(clipped) <= 0.5 * (1 + 1e-4)
    assert max(norms) > 5


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_precision(precision, dtype):
    model = make_model(learn_svals=True)
    result = fit(model, PAIRS, precision=precision, **QUICK)
    assert model.dtype == model.f(PAIRS.x).dtype == dtype
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.get_default_dtype() == torch.float32
    if dtype == torch.float64:
        second = model.f(result.train.x).square().mean(0)
        assert torch.allclose(second, torch.ones(5).double(), atol=1e-12)


def test_mixed_precision_runs_to_a_finite_model():
    model = make_model(learn_svals=True)
    fit(model, PAIRS, precision="bf16-mixed", n_epochs=10)
    assert share(model) > 0.7


def test_weight_decay_shrinks_weights():
    sizes = []
    for weight_decay in (0.0, 1.0):
        model = make_model()
        fit(model, PAIRS, weight_decay=weight_decay, n_epochs=10)
        sizes.append(sum(w.norm().item() for w in model.encoders.weights))
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("standardize", [True, False])
def test_standardisation_is_that_of_the_training_pairs(standardize):
    model = make_model()
    result = fit(model, PAIRS, standardize=standardize, **QUICK)
    both = torch.cat([result.train.x, result.train.x_next])
    mean, scale = (both.mean(0), both.std(0, correction=0)) if standardize else (torch.zeros(2), torch.ones(2))
    assert torch.allclose(model.standardize.mean, mean.double(), atol=1e-12)
    assert torch.allclose(model.standardize.scale, scale.double(), atol=1e-12)


def test_units_travel_in_the_model():
    pairs = lagged_pairs(ROTATION.simulate(n_steps=400), lag=3, dt=0.2, time_unit="ps")
    model = make_model()
    fit(model, pairs, **QUICK)
    assert (model.lag, model.dt, model.time_unit) == (3, 0.2, "ps")


def test_every_pair_is_used_in_every_epoch():
    seen = []

    class Loss(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            seen.append(len(f))
            return super().forward(f, g, svals)

    result = fit(make_model(), PAIRS, loss=Loss(5), n_epochs=2, batch_size=200)
    assert sum(seen) == 2 * len(result.train)
    assert max(seen) - min(seen) <= 1


def test_batches_are_never_smaller_than_n_modes():
    """30 pairs in batches of 20 would be two of 15, with 20 modes."""
    seen = []

    class Loss(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            seen.append(len(f))
            return super().forward(f, g, svals)

    fit(make_model(20), PAIRS.select(np.arange(30)), loss=Loss(20), held_out=0, batch_size=20, n_epochs=1)
    assert min(seen) >= 20


def test_history_tells_what_happened():
    model = make_model(learn_svals=True)
    history = fit(model, PAIRS, n_epochs=5, learning_rate=2e-3).history
    assert history.svals.shape == (5, 5)
    assert history.loss[-1] < history.loss[0]
    assert 0 < history.learning_rate.max() <= 2e-3
    assert history.learning_rate[-1] < 1e-5  # annealed
    assert history.attrs["learning_rate"] == 2e-3
    assert history.epoch.values.tolist() == [1, 2, 3, 4, 5]


def test_progress_bar_is_silent_unless_asked_for(capfd):
    fit(make_model(), PAIRS, **QUICK)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    fit(make_model(), PAIRS, progress=True, **QUICK)
    assert "training" in capfd.readouterr().err


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive; got 0"),
        ({"batch_size": 4}, "batch_size must be at least n_modes=5 .* got batch_size=4 with"),
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive; got nan"),
        ({"weight_decay": -1e-3}, "weight_decay must not be negative; got -0.001"),
        ({"gradient_clip": 0}, "gradient_clip must be positive; got 0"),
        ({"patience": 0}, "patience must be positive; got 0"),
        ({"n_epochs": 0}, "n_epochs must be positive; got 0"),
        ({"n_epochs": -3}, "n_epochs must be positive; got -3"),
        ({"held_out": 1.0}, "held_out must be a fraction of at least 0 and below 1, or pairs; got 1.0"),
        ({"held_out": -0.1}, "held_out must be a fraction"),
        ({"held_out": float("nan")}, "held_out must be a fraction"),
        ({"loss": NestedLoRALoss(7)}, r"f must have shape \(batch, n_modes=7\); got"),
    ],
)
def test_bad_options(options, message):
    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(model, PAIRS, **(QUICK | options))
    if "loss" not in options:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="epochs"):
        fit(make_model(), PAIRS, epochs=3)


def test_states_that_do_not_fit():
    with pytest.raises(ValueError, match=r"model takes states of shape \(3,\); pairs hold \(2,\)"):
        fit(KoopmanLoRAModel(3, 2), PAIRS)
    with pytest.raises(ValueError, match=r"shape \(.*2.*\); got \(.*1\)|held_out"):
        fit(make_model(), PAIRS, held_out=lagged_pairs(np.sin(np.arange(50.0))), **QUICK)


def test_too_few_pairs():
    with pytest.raises(ValueError, match="got batch_size=256 with 4 training pairs"):
        fit(make_model(), PAIRS.select(np.arange(4)), held_out=0)


class Infinite(NestedLoRALoss):
    def forward(self, f, g, svals=None):
        return super().forward(f, g, svals) * torch.inf


@pytest.mark.parametrize(
    ("loss", "options"),
    [(Infinite(5), {}), (None, {"learning_rate": 1e30}), (None, {"learning_rate": 1e30, "gradient_clip": 1.0})],
)
def test_non_finite_loss_stops_with_advice(loss, options):
    with pytest.raises(NonFiniteLossError, match=r"try a smaller learning_rate or gradient_clip=1.0"):
        fit(make_model(), PAIRS, loss=loss, **(QUICK | options))


def test_random_state_is_left_alone_by_a_failing_fit():
    before = torch.get_rng_state()
    with pytest.raises(NonFiniteLossError):
        fit(make_model(), PAIRS, loss=Infinite(5), **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_goes_on_from_where_it_was():
    model = make_model(learn_svals=True, has_centering=True)
    first = fit(model, PAIRS, n_epochs=8)
    middle = copy.deepcopy(model)
    second = fit(model, PAIRS, n_epochs=4, learning_rate=1e-3)
    assert second.history.held_out_vamp_e.max() > first.history.held_out_vamp_e.max() - 0.02
    assert second.history.loss[0] < first.history.loss[0]
    assert not torch.equal(middle.encoders.weights[0], model.encoders.weights[0])
    assert model.is_calibrated


def test_a_run_that_breaks_leaves_the_best_state_so_far():
    class BreaksLater(nn.Module):
        """The nested loss for the first epochs, then infinite."""

        def __init__(self):
            super().__init__()
            self.calls, self.loss = 0, NestedLoRALoss(3)

        def forward(self, f, g, svals=None):
            self.calls += 1
            return self.loss(f, g, svals) * (float("inf") if self.calls > 40 else 1.0)

    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    with pytest.raises(NonFiniteLossError, match="learning_rate"):
        fit(model, PAIRS, loss=BreaksLater(), n_epochs=50)
    assert all(torch.isfinite(p).all() for p in model.parameters())
