"""What cannot work is refused before the first step, and nothing has changed then."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.encoder_pairs import NoLinearHeadError
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.refinement import refine
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit
from koopman_lora.training_options import TrainingOptions

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
STATES = SYSTEM.simulate(n_trajectories=2, n_steps=201, seed=0)
PAIRS = lagged_pairs(STATES)


@pytest.fixture
def steps():
    """Every step of any optimiser is counted."""
    seen = []
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def make(n_modes=3, **options):
    return KoopmanLoRA(n_modes, **({"hidden_dims": (12, 8), "n_epochs": 2} | options))


def layers(*widths, end=None):
    """An encoder of the user's."""
    made = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*(made[:-1] if end is None else made))


def pair(f, g):
    return {"encoder_f": f, "encoder_g": g}


# ---- the estimator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"n_modes": 10},
            ValueError,
            r"n_modes=10 is more than the last hidden layer can carry \(8 units and the const",
        ),
        (pair(layers(2, 9, 2), layers(2, 1, 2)), ValueError, r"can carry \(1 units and the constant\)"),
        (pair(layers(2, 9, 2), layers(2, 9, 2, end="tanh")), NoLinearHeadError, "Sequential does not end in an nn.Lin"),
        (pair(layers(2, 9, 2), layers(2, 9, 3)), ValueError, r"encoder_g must give \(batch, 2\); got \(2, 3\)"),
        (
            pair(layers(5, 9, 2), layers(2, 9, 2)),
            ValueError,
            r"encoder_f cannot take states \(batch, 2\) of torch.float32",
        ),
        (pair(layers(2, 9, 2), layers(2, 9, 2).double()), ValueError, r"encoder_g cannot take states .* torch.float32"),
        (pair(nn.LSTM(2, 2), layers(2, 9, 2)), ValueError, r"encoder_f must give \(batch, 2\); got \(\)"),
        (
            {"precision": "bf16-true"},
            ValueError,
            "precision must be one of '32-true', .*; got 'bf16-true'.*'bf16-mixed'",
        ),
        ({"precision": "16-true"}, ValueError, "precision must be one of"),
        ({"precision": "double"}, ValueError, "precision must be one of"),
        ({"n_modes": 3.0}, ValueError, "n_modes must be an integer; got 3.0"),
        ({"n_epochs": 2.5}, ValueError, "n_epochs must be an integer; got 2.5"),
        ({"batch_size": "256"}, ValueError, "batch_size must be an integer; got '256'"),
        ({"seed": 0.5}, ValueError, "seed must be an integer; got 0.5"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate must be a number; got 'fast'"),
        ({"loss": NestedLoRALoss}, TypeError, r"loss must be a module called as loss\(f, g, svals\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_estimator_is_checked_before_the_first_step(options, error, message, steps):
    with pytest.raises(error, match=message):
        make(**options).fit(STATES)
    assert not steps


def test_without_refinement_heads_may_be_as_they_like():
    with pytest.warns(UserWarning, match="."):
        make(n_modes=12, refine=False, **pair(layers(2, 4, 11), layers(2, 4, 11, end="tanh"))).fit(STATES)


@pytest.mark.slow
def test_numbers_from_numpy_do_all_that_pythons_do(tmp_path):
    """As a grid search gives them."""
    plain = {"n_modes": 3, "n_epochs": 2, "batch_size": 64, "seed": 3, "hidden_dims": (12, 8), "lag": 1}
    numpy = {name: np.int64(value) for name, value in plain.items() if name != "hidden_dims"}
    numpy["hidden_dims"] = (np.int64(12), np.int64(8))
    one, other = KoopmanLoRA(**plain).fit(STATES), KoopmanLoRA(**numpy).fit(STATES)
    assert np.allclose(one.spectrum_.svals, other.spectrum_.svals, rtol=1e-6)
    saved = [
        json.loads((e.save(tmp_path / name) / "analysis.json").read_text()) for e, name in ((one, "a"), (other, "b"))
    ]
    assert saved[0]["settings"] == saved[1]["settings"]


@pytest.mark.slow
def test_images_take_numbers_from_numpy(tmp_path):
    images = np.random.default_rng(0).normal(size=(120, 6, 6))
    fitted = KoopmanLoRA(np.int64(3), n_epochs=np.int64(1), batch_size=32).fit(images)
    settings = json.loads((fitted.save(tmp_path / "images") / "analysis.json").read_text())["settings"]
    assert (settings["n_modes"], settings["n_epochs"]) == (3, 1)


# ---- fit -------------------------------------------------------------------------------------------------------------


def own(f, g=None, **options):
    return KoopmanLoRAModel.from_encoders(2, 3, f, g, has_centering=True, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (own(layers(2, 8, 4)), r"encoder_f must give \(batch, 2\); got \(2, 4\) for a batch of 2"),
        (own(layers(2, 8, 2), layers(2, 8, 1)), r"encoder_g must give \(batch, 2\)"),
        (own(layers(3, 8, 2)), r"encoder_f cannot take states \(batch, 2\)"),
        (
            own(layers(2, 8, 2)).bfloat16(),
            r"must be in single or double precision.*got torch.bfloat16.*model.float\(\)",
        ),
        (own(layers(2, 8, 2)).half(), "must be in single or double precision"),
        (own(layers(2, 8, 2)).requires_grad_(requires_grad=False), "model has no weights to train"),
    ],
    ids=range(6),
)
def test_a_model_is_checked_before_the_first_step(model, message, steps):
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(model, PAIRS, n_epochs=1)
    assert not steps
    assert model.training
    assert model.clock == Clock()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Linear(2, 3)}, "model must be a KoopmanLoRAModel; got Linear.*from_encoders"),
        ({"loss": 5}, r"loss must be a module called as loss\(f, g, svals\).*got 5"),
        ({"loss": len}, r"loss must be called as loss\(f, g, svals\), and give a scalar tensor; too many positional"),
        ({"loss": lambda f, g, svals: 1.0}, "loss must give a scalar tensor of real numbers with a gradient; got 1.0"),
        ({"loss": lambda f, g, svals: f}, r"loss must give a scalar tensor .*; got an array of shape"),
        ({"loss": lambda *_: torch.ones(())}, r"loss must give .*; got one without a gradient: it does not depend on"),
        ({"options": {"patience": 3}}, r"options must be TrainingOptions\(...\); got \{'patience': 3\}"),
    ],
)
def test_things_of_another_kind_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        fit(**({"model": KoopmanLoRAModel(2, 3, hidden_dims=(4,)), "pairs": PAIRS} | arguments))


def test_the_check_leaves_batch_statistics_alone():
    encoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    model = own(encoder)
    with pytest.raises(ValueError, match="encoder_f must give"):
        fit(model, PAIRS)
    assert encoder[1].num_batches_tracked == 0


@pytest.mark.parametrize("value", [np.int64(2), np.uint8(2)])
def test_fit_takes_whole_numbers_from_numpy(value):
    result = fit(KoopmanLoRAModel(2, value, hidden_dims=(value,)), PAIRS, n_epochs=value, batch_size=np.int32(64))
    assert result.history.sizes["epoch"] == 2


def test_encoders_in_double_precision_make_a_model_of_it():
    model = own(layers(2, 8, 2).double(), learn_svals=True)
    assert model.dtype == torch.float64
    fit(model, PAIRS, n_epochs=1)
    assert model.f(PAIRS.x).dtype == torch.float64


def test_no_batch_is_a_single_pair():
    """Three pairs in batches of two would be one of two and one alone."""
    model = KoopmanLoRAModel(2, 1, hidden_dims=(4,))
    few = split_pairs(PAIRS.select(np.arange(3)), 0)
    assert np.isfinite(fit(model, few, n_epochs=1, batch_size=2).history.loss).all()
    with pytest.raises(ValueError, match=r"batch_size must be at least n_modes=1 \(and 2\).*got batch_size=1"):
        fit(model, few, n_epochs=1, batch_size=1)


@pytest.mark.filterwarnings("error")
def test_a_single_held_out_pair_will_do():
    one = PAIRS.select(np.arange(1))
    model = KoopmanLoRAModel(2, 2, hidden_dims=(4,))
    result = fit(model, Split.given(PAIRS, one), n_epochs=3)
    assert 1 <= result.best_epoch <= 3
    refined = refine(model, result.split)  # of which no error is known: the simplest
    assert (refined.start, refined.threshold) == ("linear", np.inf)


# ---- a loop of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"learn_svals": True, "has_centering": True}, {"learn_svals": True}, {"use_batchnorm": True}], ids=str
)
def test_a_last_batch_of_one_pair_says_what_to_do(options):
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,), **options)
    x, x_next = PAIRS.x[:1], PAIRS.x_next[:1]
    for call in (lambda: model(x, x_next), lambda: model.f(x), lambda: model.g(x)):
        with pytest.raises(ValueError, match=r"x must hold at least 2 states .*got 1. Use drop_last=True"):
            call()
    model.calibrate(PAIRS.x, PAIRS.x_next)
    assert model.eval().f(x).shape == (1, 3)


def test_a_loss_of_one_pair_says_what_to_do():
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    f, g = model(PAIRS.x[:1], PAIRS.x_next[:1])
    with pytest.raises(
        ValueError, match=r"f and g must hold at least 2 pairs; got 1\. Use a larger batch, and drop_last"
    ):
        NestedLoRALoss(3)(f, g)


# ---- matrices --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
ROWS, COLUMNS = RNG.normal(size=(40, 5)), RNG.normal(size=(30, 5))
KERNEL = np.exp(-((ROWS[:, None] - COLUMNS[None]) ** 2).sum(-1) / 4)


def on_features(**options):
    return NeuralSVD(parametrization="features", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_modes": 6, "hidden_dims": (4,)}, r"n_modes=6 is more than the last hidden layer can carry \(4 units and"),
        ({"hidden_dims": (64, 8)}, r"n_modes=30 is more than the last hidden layer can carry \(8 units"),
        ({"n_modes": 7, "hidden_dims": ()}, r"can carry \(5 units"),
    ],
)
def test_narrow_hidden_layers_of_a_matrix_are_refused_before_the_first_step(options, message, steps):
    with pytest.raises(ValueError, match=message):
        on_features(**options).fit(KERNEL, row_features=ROWS, column_features=COLUMNS)
    assert not steps


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("H", [KERNEL, KERNEL * (1 + 1j)], ids=["real", "complex"])
def test_a_layer_as_wide_as_n_modes_needs_no_room_for_oversampling(H):
    svd = on_features(n_modes=5, hidden_dims=(4,), max_steps=20).fit(H, row_features=ROWS, column_features=COLUMNS)
    assert svd.U_.shape == (40, 5)
    assert np.allclose(np.conj(svd.U_.T) @ svd.U_, np.eye(5), atol=1e-9)


@pytest.mark.filterwarnings("ignore:training stopped after max_steps")
def test_energy_out_of_reach_of_the_layer_is_told():
    with pytest.warns(
        UserWarning, match="energy=0.999 takes more than the 5 modes that the last hidden layer can carry"
    ):
        svd = on_features(energy=0.999, hidden_dims=(4,), max_steps=20).fit(KERNEL, row_features=ROWS)
    assert len(svd.singular_values_) == 5


def test_a_reference_of_another_shape_is_refused_before_the_first_step(steps):
    with pytest.raises(ValueError, match=r"reference must have shape \(M=40, at least n_modes=2\); got \(40, 1\)"):
        NeuralSVD(n_modes=2, phase="reference", reference=np.ones((40, 1))).fit(KERNEL)
    assert not steps


@pytest.mark.parametrize("again", ["fit", "partial_fit"])
def test_a_refit_of_a_matrix_that_fails_leaves_the_earlier_one_whole(again, monkeypatch):
    svd = on_features(n_modes=3).fit(KERNEL, row_features=ROWS, column_features=COLUMNS)
    before, mapped = {n: v for n, v in vars(svd).items() if n.endswith("_")}, svd.transform_rows(ROWS)

    def fail(*_):
        raise MemoryError("full")

    monkeypatch.setattr("koopman_lora.svd.neural_svd.diagnose", fail)
    arguments = {"row_features": ROWS, "column_features": COLUMNS} if again == "fit" else {}
    with pytest.raises(MemoryError, match="full"):
        getattr(svd, again)(2 * KERNEL, **arguments)
    assert all(vars(svd)[name] is value for name, value in before.items())
    assert np.array_equal(svd.transform_rows(ROWS), mapped)


def test_options_say_what_precision_can_be():
    for precision in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
        assert TrainingOptions(precision=precision).precision == precision
