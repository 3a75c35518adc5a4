import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from koopman_lora.agreement import captured_share
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.scores import vamp_scores
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit, raw_moments
from koopman_lora.training_batches import TrainingBatches
from koopman_lora.training_loop import TrainingLoop
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


# ---- the best state --------------------------------------------------------------------------------------------------


def held_out_score(model, result):
    train, test = (raw_moments(model, pairs) for pairs in result.split)
    return vamp_scores(train, test).vamp_2


@pytest.mark.parametrize("options", [{}, {"learn_svals": True, "has_centering": True}, {"use_batchnorm": True}])
@pytest.mark.parametrize("learning_rate", [1e-3, 0.1])
def test_the_best_state_is_restored(options, learning_rate):
    model = make_model(**options)
    result = fit(model, PAIRS, n_epochs=6, options=TrainingOptions(learning_rate=learning_rate))
    scores = result.history.held_out_vamp_2
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
    steps = round(len(split_pairs(PAIRS, 0.1).training) / 256)
    result = fit(
        model, PAIRS, loss=Spoiling(3 * steps), n_epochs=30, options=TrainingOptions(learning_rate=3e-2, patience=4)
    )
    scores = result.history.held_out_vamp_2.values
    assert result.stop_reason == "early stopping"
    assert len(scores) == scores.argmax() + 1 + 4 < 30
    assert result.best_epoch <= 3
    assert scores[-1] < scores.max() - 0.1
    assert scores[result.best_epoch - 1] > scores.max() - 0.05
    assert np.isclose(held_out_score(model, result), scores[result.best_epoch - 1], rtol=1e-5)


@pytest.mark.slow
def test_a_network_that_memorises_is_taken_back_to_before_it_did():
    """300 pairs in 30 coordinates of noise beside one that can be predicted."""
    noise = np.random.default_rng(0).normal(size=(301, 30))
    signal = ROTATION.simulate(n_steps=301, seed=3).values.reshape(301, 2)
    pairs = lagged_pairs(np.hstack([signal, noise]))
    result = fit(make_model(4, pairs=pairs), pairs, n_epochs=200)
    scores = result.history.held_out_vamp_2
    assert scores.max() - scores[-1] > 0.2  # it did fall
    assert scores.max() - scores.sel(epoch=result.best_epoch) < scores.max() - scores[-1]


def test_held_out_pairs_of_ones_own():
    other = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=500, seed=9))
    model = make_model()
    result = fit(model, Split.given(PAIRS, other), n_epochs=4)
    assert result.split.held_out is other
    assert result.split.training is PAIRS
    chosen = result.history.held_out_vamp_2.sel(epoch=result.best_epoch)
    assert np.isclose(held_out_score(model, result), chosen, rtol=1e-5)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number; got nan"),
        ({"weight_decay": -1e-3}, "weight_decay must not be negative; got -0.001"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number; got nan"),
        ({"gradient_clip": 0}, "gradient_clip must be positive; got 0"),
        ({"patience": 0}, "patience must be positive; got 0"),
    ],
)
def test_bad_options_are_refused_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


def test_unknown_and_later_options_are_refused():
    with pytest.raises(TypeError, match="lerning_rate"):
        TrainingOptions(lerning_rate=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="patience"):
        TrainingOptions().patience = 0


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
        fit(model, PAIRS, loss=Loss(5), n_epochs=4, options=TrainingOptions(gradient_clip=0.5))
        clipped = list(norms)
        norms.clear()
        fit(make_model(), PAIRS, loss=Loss(5), n_epochs=4)
    finally:
        handle.remove()
    assert max(clipped) <= 0.5 * (1 + 1e-4)
    assert max(norms) > 5


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_precision(precision, dtype):
    model = make_model(learn_svals=True)
    result = fit(model, PAIRS, n_epochs=4, options=TrainingOptions(precision=precision))
    assert model.dtype == model.f(PAIRS.x).dtype == dtype
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.get_default_dtype() == torch.float32
    if dtype == torch.float64:
        second = model.f(result.split.training.x).square().mean(0)
        assert torch.allclose(second, torch.ones(5).double(), atol=1e-12)


def test_mixed_precision_runs_to_a_finite_model():
    model = make_model(learn_svals=True)
    fit(model, PAIRS, n_epochs=10, options=TrainingOptions(precision="bf16-mixed"))
    assert share(model) > 0.7


@pytest.mark.slow
def test_weight_decay_shrinks_weights():
    sizes = []
    for weight_decay in (0.0, 1.0):
        model = make_model()
        fit(model, PAIRS, n_epochs=10, options=TrainingOptions(weight_decay=weight_decay))
        sizes.append(sum(w.norm().item() for w in model.encoders.weights))
    assert sizes[1] < 0.9 * sizes[0]


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_every_pair_is_used_in_every_epoch():
    seen = []

    class Loss(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            seen.append(len(f))
            return super().forward(f, g, svals)

    result = fit(make_model(), PAIRS, loss=Loss(5), n_epochs=2, batch_size=200)
    assert sum(seen) == 2 * len(result.split.training)
    assert max(seen) - min(seen) <= 1


def test_batches_are_never_smaller_than_n_modes():
    """30 pairs in batches of 20 would be two of 15, with 20 modes."""
    seen = []

    class Loss(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            seen.append(len(f))
            return super().forward(f, g, svals)

    few = split_pairs(PAIRS.select(np.arange(30)), 0)
    fit(make_model(20), few, loss=Loss(20), batch_size=20, n_epochs=1)
    assert min(seen) >= 20


# ---- what is told ----------------------------------------------------------------------------------------------------


def test_history_tells_what_happened():
    model = make_model(learn_svals=True)
    history = fit(model, PAIRS, n_epochs=5, options=TrainingOptions(learning_rate=2e-3)).history
    assert history.svals.shape == (5, 5)
    assert history.loss[-1] < history.loss[0]
    assert 0 < history.learning_rate.max() <= 2e-3
    assert history.learning_rate[-1] < 1e-5  # annealed
    assert history.attrs["learning_rate"] == 2e-3
    assert history.epoch.values.tolist() == [1, 2, 3, 4, 5]


def test_progress_bar_is_silent_unless_asked_for(capfd):
    fit(make_model(), PAIRS, n_epochs=4)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    fit(make_model(), PAIRS, progress=True, n_epochs=4)
    assert "training" in capfd.readouterr().err


# ---- a loss that breaks ----------------------------------------------------------------------------------------------


class Infinite(NestedLoRALoss):
    def forward(self, f, g, svals=None):
        return super().forward(f, g, svals) * torch.inf


@pytest.mark.parametrize(
    ("loss", "options"),
    [(Infinite(5), {}), (None, {"learning_rate": 1e30}), (None, {"learning_rate": 1e30, "gradient_clip": 1.0})],
)
def test_non_finite_loss_stops_with_advice(loss, options):
    with pytest.raises(NonFiniteLossError, match=r"try a smaller learning_rate or gradient_clip=1.0"):
        fit(make_model(), PAIRS, loss=loss, n_epochs=4, options=TrainingOptions(**options))


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


# ---- how long --------------------------------------------------------------------------------------------------------


def steps_of(pairs, model, will_refine):
    """Number of steps that the default training is set up for."""
    loop = TrainingLoop(model, split_pairs(pairs, 0), None, TrainingOptions(will_refine=will_refine))
    loop._configure(None, 256)
    return loop.n_epochs * loop.steps_per_epoch


def constant_pairs(n_pairs, n_coordinates):
    return lagged_pairs(np.random.default_rng(0).normal(size=(n_pairs + 1, n_coordinates)))


@pytest.mark.parametrize(
    ("n_pairs", "n_coordinates", "n_steps"),
    [
        (1_000, 1, 950),  # few: by Adam alone
        (20_000, 1, 250),
        (40_000, 1, 250),
        (40_000, 2, 500),
        (40_000, 3, 750),
        (40_000, 50, 1000),
        (2_560_000, 1, 500),  # twice as many for 64 times the pairs
    ],
)
def test_the_default_number_of_steps_before_refinement(n_pairs, n_coordinates, n_steps):
    pairs = constant_pairs(n_pairs, n_coordinates)
    assert steps_of(pairs, make_model(pairs=pairs), will_refine=True) == n_steps


def test_adam_alone_gets_more_steps():
    pairs = constant_pairs(20_000, 1)
    assert steps_of(pairs, make_model(pairs=pairs, hidden_dims=(8,)), will_refine=True) == 950
    assert steps_of(pairs, make_model(pairs=pairs), will_refine=False) == 950


@pytest.mark.slow
def test_by_default_an_epoch_is_fifty_steps_however_many_pairs_there_are():
    few = PAIRS.select(np.arange(300))
    history = fit(make_model(), split_pairs(few, 0.2)).history
    assert history.sizes["epoch"] <= 950 / 50
    assert history.attrs["steps_per_epoch"] == 50
    assert fit(make_model(), PAIRS, n_epochs=1).history.attrs["steps_per_epoch"] == 11


def test_training_ends_by_itself_long_before_the_last_epoch_where_nothing_is_gained():
    result = fit(make_model(), PAIRS, loss=Spoiling(30), n_epochs=60)
    assert result.stop_reason == "early stopping"
    assert result.history.sizes["epoch"] <= 30


def test_held_out_scores_see_part_of_very_many_pairs_evenly(monkeypatch):
    monkeypatch.setattr("koopman_lora.epoch_scores.MOST_SCORED", 100)
    loop = TrainingLoop(make_model(), split_pairs(PAIRS, 0.1), None, TrainingOptions(standardize=False))
    loop._configure(1, 256)
    x = loop.test.x
    stride = -(-len(x) // 100)
    assert torch.equal(loop.scores.states[0], x[::stride].float())
    assert len(loop.scores.states[0]) <= 100


def test_batches_go_on_from_a_state_as_if_nothing_had_happened():
    batches = TrainingBatches(make_model(), PAIRS, steps_per_pass=7, seed=3)
    for _ in range(10):
        next(batches)
    state = batches.state()
    expected = [next(batches) for _ in range(9)]
    other = TrainingBatches(make_model(), PAIRS, steps_per_pass=7, seed=0)
    other.restore(state)
    for (x, x_next), (y, y_next) in zip(expected, other, strict=False):
        assert torch.equal(x, y)
        assert torch.equal(x_next, y_next)
