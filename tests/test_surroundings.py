"""What fits leave as it was, and that those in threads are those of one after the other."""

import concurrent.futures
import logging
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_module
from torch import nn

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.encoders import CNN, MLP
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.launching import quiet_fabric
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.surroundings import gradients, may_draw, seeded
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit
from koopman_lora.training_options import TrainingOptions

pytestmark = pytest.mark.any_processor

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
STATES = SYSTEM.simulate(n_trajectories=2, n_steps=401, seed=0)
PAIRS = lagged_pairs(STATES)


def make(seed=0, **options):
    return KoopmanLoRA(3, **({"hidden_dims": (12, 8), "n_epochs": 4, "seed": seed} | options))


class Noisy(nn.Module):
    """An encoder of the user's that draws random numbers in training."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 12), nn.Linear(12, 2)

    def forward(self, x):
        hidden = self.first(x).tanh()
        return self.last(hidden + 0.1 * torch.randn_like(hidden) if self.training else hidden)


def encoder(kind):
    with seeded(1):
        if kind == "own layer":
            return Noisy()
        return nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 2))


# ---- threads ---------------------------------------------------------------------------------------------------------


def settings(kind):
    """Options of six fits."""
    own = {} if kind == "default" else {"encoder_f": encoder(kind), "encoder_g": encoder(kind)}
    return [own | {"seed": seed, "precision": precision} for seed in range(3) for precision in ("32-true", "64-true")]


def numbers(options):
    return make(**options).fit(STATES).model_.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["default", "dropout", "own layer"])
def test_fits_in_threads_are_those_in_sequence(kind):
    """Bit for bit: each fit runs the same operations in the same order on one thread of its own."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        before = torch.get_rng_state()
        wanted = [numbers(options) for options in settings(kind)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            found = list(pool.map(numbers, settings(kind)))
    finally:
        torch.set_num_threads(n_threads)
    for one, other in zip(wanted, found, strict=True):
        assert {name: value.dtype for name, value in one.items()} == {n: v.dtype for n, v in other.items()}
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(before, torch.get_rng_state())


def test_matrices_in_threads_are_those_in_sequence():
    H = np.random.default_rng(0).normal(size=(12, 9))

    def values(seed):
        return NeuralSVD(n_modes=2, seed=seed, max_steps=3).fit(H).result_.loss.values

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [values(seed) for seed in range(6)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            found = list(pool.map(values, range(6)))
    assert np.allclose(wanted, found, rtol=1e-9)


def test_the_default_precision_of_other_threads_is_left_alone():
    seen = set()

    class Watching(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            seen.add(torch.get_default_dtype())
            return super().forward(f, g, svals)

    make(precision="64-true", loss=Watching(3)).fit(STATES)
    assert seen == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["default", "dropout", "own layer"])
def test_random_states_are_left_as_they_were(kind):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    make(**settings(kind)[0]).fit(STATES)
    NeuralSVD(n_modes=1).fit(np.eye(3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize("kind", ["dropout", "own layer"])
def test_layers_that_draw_follow_the_seed(kind):
    def trained(seed, before):
        torch.manual_seed(before)
        model = KoopmanLoRAModel.from_encoders(2, 3, encoder(kind), encoder(kind), has_centering=True)
        fit(model, PAIRS, n_epochs=2, seed=seed)
        return model.state_dict()

    one, same, other = trained(0, before=1), trained(0, before=2), trained(1, before=1)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_seeds_keep_other_threads_out():
    inside, outside = [], []
    entered, may_leave = threading.Event(), threading.Event()

    def hold():
        with seeded(0):
            entered.set()
            may_leave.wait(timeout=10)
            inside.append(torch.rand(1).item())

    def wait():
        with seeded(5):
            outside.append(torch.rand(1).item())

    first, second = threading.Thread(target=hold), threading.Thread(target=wait)
    first.start()
    assert entered.wait(timeout=10)
    second.start()
    second.join(timeout=0.05)
    assert not outside
    may_leave.set()
    first.join()
    second.join()
    assert inside == [torch.rand(1, generator=torch.Generator().manual_seed(0)).item()]
    assert outside == [torch.rand(1, generator=torch.Generator().manual_seed(5)).item()]


def test_the_state_comes_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), seeded(3):
        raise RuntimeError("stop")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("module", "draws"),
    [
        (MLP(2, 2), False),
        (CNN(1, 2), False),
        (NestedLoRALoss(2), False),
        (nn.BatchNorm1d(3), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.1))), True),
        (nn.RReLU(), True),
        (nn.GRU(2, 2, num_layers=2), False),
        (nn.GRU(2, 2, num_layers=2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2), True),
        (Noisy(), True),
        (len, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_layers_may_draw(module, draws):
    assert may_draw(module) is draws


# ---- loggers ---------------------------------------------------------------------------------------------------------


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def heard():
    logger, handler = rank_zero_module.log, Heard()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.slow
def test_fits_say_nothing_through_fabric_and_leave_its_logger_alone(heard):
    parent = logging.getLogger("lightning_fabric")
    before = parent.level, rank_zero_module.log.level, list(rank_zero_module.log.filters)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: make(seed, n_epochs=1, precision="bf16-mixed").fit(STATES), range(8)))
    assert heard == []  # "Using bfloat16 Automatic Mixed Precision (AMP)" is what Fabric would say
    assert before == (parent.level, rank_zero_module.log.level, rank_zero_module.log.filters)


def test_other_threads_and_errors_are_heard(heard):
    with quiet_fabric():
        rank_zero_module.log.info("ours")
        rank_zero_module.log.error("an error")
        other = threading.Thread(target=lambda: rank_zero_module.log.info("theirs"))
        other.start()
        other.join()
    rank_zero_module.log.info("later")
    assert heard == ["an error", "theirs", "later"]


def test_a_users_filter_of_warnings_survives_a_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        make(n_epochs=1).fit(STATES)
        assert warnings.filters == before


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_fits_take_gradients_where_they_are_switched_off(context):
    wanted = make().fit(STATES).spectrum_.svals.values
    with context():
        states = torch.from_numpy(STATES.values[0]) * 1.0  # made where no gradient is taken
        estimator = make().fit(STATES)
        alone = make().fit(states)
        model = None
        if context is torch.no_grad:
            model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
            fit(model, PAIRS, n_epochs=1)
        svd = NeuralSVD(n_modes=1).fit(np.diag([3.0, 1.0])).partial_fit(np.diag([3.1, 1.0]))
        assert not torch.is_grad_enabled()
    assert np.allclose(estimator.spectrum_.svals, wanted, rtol=1e-6)
    assert not any(tensor.is_inference() for tensor in alone.model_.state_dict().values())
    assert np.allclose(svd.singular_values_, 3.1)
    fit(estimator.model_, PAIRS, n_epochs=1)  # its weights can go on learning


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    with pytest.raises(ValueError, match=r"model was made inside torch.inference_mode\(\).*make it outside"):
        fit(model, PAIRS, n_epochs=1)


def test_gradients_are_switched_back():
    with torch.inference_mode():
        with gradients():
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


# ---- complex weights -------------------------------------------------------------------------------------------------


class Plane(nn.Module):
    """Complex features of the plane, with complex weights."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))

    def forward(self, x):
        z = torch.complex(x[:, :1], x[:, 1:])
        return torch.cat([z, z.conj(), z * z.abs()], dim=1) @ self.weights


def test_complex_weights_are_trained():
    with seeded(0):
        model = KoopmanLoRAModel.from_encoders(2, 3, Plane(), Plane(), has_centering=True)
    result = fit(model, PAIRS, n_epochs=20, options=TrainingOptions(gradient_clip=10.0))
    assert result.history.loss[-1] < result.history.loss[0] - 0.1
    exact = SYSTEM.spectrum(1, 3).singular_values
    assert result.history.held_out_vamp_2.max() > 0.8 * (exact**2).sum()
