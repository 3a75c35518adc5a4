import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.encoder_pairs import EncoderPair, PairedMLP
from koopman_lora.encoders import CNN
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel, NotCalibratedError
from koopman_lora.ritz import head_matrices, ritz_maps, set_heads
from koopman_lora.spectrum import compute_koopman_spectrum
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Harmonics(nn.Module):
    """Complex features exp(i m x), m = 1..k, with learnable factors."""

    def __init__(self, k):
        super().__init__()
        self.factors = nn.Parameter(torch.randn(k, dtype=torch.complex128))

    def forward(self, x):
        return torch.exp(1j * x[:, :1] * torch.arange(1, len(self.factors) + 1)) * self.factors + 0.3


def states(n=500, seed=1, dtype=torch.float64):
    x, y = torch.randn(2, n, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 2 * x + 1, x + y


KINDS = {
    "default": {},
    "batchnorm": {"use_batchnorm": True},
    "shared": {"shared_encoder": True},
    "linear": {"hidden_dims": ()},
    "elu": {"activation": "ELU", "hidden_dims": [16, 8]},
}


# ---- learned singular values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_calibrated_features_have_unit_second_moment_exactly(kind, centred, dtype):
    model = KoopmanLoRAModel(2, 4, learn_svals=True, has_centering=centred, **KINDS[kind]).to(dtype).eval()
    x, x_next = states()
    model.calibrate(x, x_next, batch_size=77)
    for features in (model.f(x), model.g(x_next)):
        features = features.double()
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert torch.allclose(features.square().mean(0), torch.ones(4).double(), atol=tolerance)
        if centred:
            assert torch.equal(features[:, 0], torch.ones(500).double())
            assert features[:, 1:].mean(0).abs().max() < tolerance


def test_calibration_is_exact_for_complex_features():
    model = KoopmanLoRAModel.from_encoders(2, 4, Harmonics(3), Harmonics(3), learn_svals=True, has_centering=True)
    model.double().eval()
    x, x_next = states()
    model.calibrate(x, x_next)
    for features in (model.f(x), model.g(x_next)):
        assert features.is_complex()
        assert torch.allclose(features.abs().square().mean(0), torch.ones(4).double(), atol=1e-12)
        assert features[:, 1:].mean(0).abs().max() < 1e-12


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_calibration_in_single_precision_survives_large_means(offset):
    """Second moments minus squared means must not cancel: they are taken in float64."""

    class Shifted(nn.Module):
        def forward(self, x):
            return x + offset

    model = KoopmanLoRAModel.from_encoders(2, 3, Shifted(), Shifted(), learn_svals=True, has_centering=True).eval()
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(3))
    model.calibrate(x, x)
    assert torch.allclose(model.f(x)[:, 1:].double().std(0), torch.ones(2).double(), atol=1e-3)


def test_centering_alone_does_not_scale():
    model = KoopmanLoRAModel(2, 4, has_centering=True).double().eval()
    x, x_next = states()
    model.calibrate(x, x_next)
    raw = model.encoders.f(model.prepare(x))
    assert torch.allclose(model.f(x)[:, 1:], raw - raw.mean(0), atol=1e-12)
    assert model.svals is None


def test_without_normalisation_features_are_the_encoders_own():
    model = KoopmanLoRAModel(2, 4).eval()
    x, x_next = states(dtype=torch.float32)
    f, g = model(x, x_next)
    assert torch.allclose(f, model.encoders.f(x), atol=1e-6)
    assert torch.allclose(g, model.encoders.g(x_next), atol=1e-6)
    before = copy.deepcopy(model.state_dict())
    model.calibrate(x, x_next)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("options", [{"learn_svals": True}, {"has_centering": True}])
def test_features_before_calibration_are_refused(options):
    model = KoopmanLoRAModel(2, 4, **options).eval()
    x, x_next = states(dtype=torch.float32)
    for call in (lambda: model.f(x), lambda: model.g(x), lambda: model(x, x_next)):
        with pytest.raises(NotCalibratedError, match=r"Call model.calibrate\(x, x_next\) after training"):
            call()
    model.calibrate(x, x_next)
    frozen = model.f(x[:10])
    assert torch.allclose(frozen, model.f(x)[:10], atol=1e-6)  # no batch statistics any more
    model.train()
    model(x, x_next)
    model.eval()
    with pytest.raises(NotCalibratedError, match="has not been calibrated"):
        model.f(x)
    model.calibrate(x, x_next)
    assert torch.allclose(model.f(x[:10]), frozen, atol=1e-6)


def test_calibrating_keeps_the_mode_and_needs_data():
    model = KoopmanLoRAModel(2, 4, learn_svals=True)
    x, x_next = states(dtype=torch.float32)
    model.calibrate(x, x_next)
    assert model.training
    with pytest.raises(ValueError, match="pairs to calibrate on are empty"):
        model.calibrate_batches([])


@pytest.mark.parametrize("batch_size", [1, 13, 500, 10_000])
def test_calibration_does_not_depend_on_batches(batch_size):
    model = KoopmanLoRAModel(2, 3, learn_svals=True, has_centering=True).double().eval()
    x, x_next = states()
    model.calibrate(x, x_next)
    wanted = model.f(x)
    model.calibrate(x, x_next, batch_size=batch_size)
    assert torch.allclose(model.f(x), wanted, atol=1e-12)


def test_training_uses_the_statistics_of_the_batch():
    model = KoopmanLoRAModel(2, 4, learn_svals=True, has_centering=True).double().train()
    x, x_next = states(64)
    for features in model(x, x_next):
        assert torch.allclose(features.square().mean(0), torch.ones(4).double(), atol=1e-12)
        assert features[:, 1:].mean(0).abs().max() < 1e-12


def test_scale_of_a_feature_is_not_learned_when_svals_are():
    """f normalised: the gradient along its own scale is zero, which makes svals identifiable."""
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True).double().train()
    x, x_next = states(64)
    loss = NestedLoRALoss(3)(*model(x, x_next), model.svals)
    loss.backward()
    weight, bias = model.encoders.weights[-1], model.encoders.biases[-1]
    along = (weight.grad * weight).sum(1) + (bias.grad * bias).sum(1)  # (side, feature)
    assert along.abs().max() < 1e-8 * weight.grad.abs().max()
    assert model.svals_params.grad.abs().min() > 1e-6


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 2e-7)])
def test_set_svals_roundtrip(centred, dtype, tolerance):
    model = KoopmanLoRAModel(2, 5, learn_svals=True, has_centering=centred).to(dtype)
    values = torch.tensor([1.0, 0.999, 0.5, 1e-3, 0.0], dtype=torch.float64)
    model.set_svals(values)
    assert torch.allclose(model.svals.double(), values, atol=tolerance)
    assert torch.isfinite(model.svals_params).all()
    if centred:
        assert model.svals[0] == 1


@pytest.mark.parametrize("n_modes", [2, 3, 20])
@pytest.mark.parametrize("centred", [False, True])
def test_svals_start_away_from_saturation(n_modes, centred):
    svals = KoopmanLoRAModel(2, n_modes, learn_svals=True, has_centering=centred).svals
    assert len(svals) == n_modes
    assert ((svals[int(centred) :] > 0.05) & (svals[int(centred) :] < 0.95)).all()


def test_state_dict_carries_the_calibration():
    make = lambda: KoopmanLoRAModel(2, 4, learn_svals=True, has_centering=True).eval()  # noqa: E731
    model, other = make(), make()
    x, x_next = states(dtype=torch.float32)
    model.standardize.set_statistics(x.mean(0), x.std(0))
    model.calibrate(x, x_next)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.f(x), model.f(x))
    assert torch.equal(other.g(x), model.g(x))


# ---- encoders --------------------------------------------------------------------------------------------------------


def test_shared_encoder_is_shared():
    model = KoopmanLoRAModel(2, 4, shared_encoder=True, learn_svals=True)
    x, _ = states(dtype=torch.float32)
    assert model.shared_encoder
    assert model.encoders.module_f is model.encoders.module_g
    assert torch.equal(model.encoders.f(x), model.encoders.g(x))
    separate = KoopmanLoRAModel(2, 4, learn_svals=True)
    count = [sum(p.numel() for p in m.encoders.parameters()) for m in (model, separate)]
    assert 2 * count[0] == count[1]
    assert not separate.shared_encoder
    assert not torch.equal(separate.encoders.f(x), separate.encoders.g(x))


def test_default_encoders_are_batched_where_they_can_be():
    assert isinstance(KoopmanLoRAModel(2, 4).encoders, PairedMLP)
    assert isinstance(KoopmanLoRAModel(2, 4, use_batchnorm=True).encoders, EncoderPair)


@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 5, 5)])
def test_states_of_any_shape(shape):
    model = KoopmanLoRAModel(shape, 4).eval()
    x = torch.randn(6, *shape)
    f, g = model(x, x.flip(0))
    assert torch.allclose(model.f(x), f, atol=1e-6)
    assert torch.allclose(model.g(x), g.flip(0), atol=1e-6)
    assert f.std(0).min() > 0


def test_users_modules_and_images():
    model = KoopmanLoRAModel.from_encoders((1, 12, 10), 5, CNN(1, 5, (4,)), CNN(1, 5, (4,))).eval()
    x = torch.randn(6, 1, 12, 10)
    assert torch.equal(model.f(x), model.encoders.module_f(x))
    assert not torch.allclose(model.f(x), model.g(x))


def test_one_encoder_of_the_users_serves_both_sides():
    encoder = nn.Linear(2, 3)
    model = KoopmanLoRAModel.from_encoders(2, 3, encoder).eval()
    x, _ = states(dtype=torch.float32)
    assert model.shared_encoder
    assert model.has_own_encoders
    assert model.encoders.module_f is model.encoders.module_g is encoder
    assert torch.equal(model.f(x), model.g(x))
    assert {id(p) for p in model.encoders.parameters()} == {id(p) for p in encoder.parameters()}
    assert not KoopmanLoRAModel(2, 3).has_own_encoders


@pytest.mark.parametrize("centred", [False, True])
def test_normalisation_that_is_set_is_that_of_the_features(centred):
    model = KoopmanLoRAModel(2, 4, learn_svals=True, has_centering=centred).double().eval()
    n_learned = 4 - centred
    mean, scale = centred * torch.randn(2, n_learned).double(), 1 + torch.rand(2, n_learned).double()
    model.set_normalisation(mean, scale, torch.tensor([1.0, 0.5, 0.25, 0.125]))
    x, _ = states()
    for side, (raw, features) in enumerate(zip(model.raw_maps(), (model.f(x), model.g(x)), strict=True)):
        learned = (raw(x)[:, int(centred) :] - mean[side]) / scale[side]
        assert torch.allclose(features[:, int(centred) :], learned, atol=1e-12)
        if centred:
            assert torch.equal(features[:, 0], torch.ones(500).double())
    assert np.allclose(model.svals_array()[1:], [0.5, 0.25, 0.125], atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"has_centering": True}, {"shared_encoder": True}], ids=str)
def test_heads_are_matrices_from_last_hidden_layers_to_features(options):
    model = KoopmanLoRAModel(2, 4, hidden_dims=(6, 5), **options).double().eval()
    x, _ = states()
    for functions, raw, head in zip(ritz_maps(model), model.raw_maps(), head_matrices(model, x), strict=True):
        assert head.shape == (1 + 2 + 5, 4)
        assert torch.allclose(functions(x) @ torch.from_numpy(head), raw(x), atol=1e-12)
    left, right = np.random.default_rng(0).normal(size=(2, 8, 4))
    if model.has_centering:
        left[:, 0] = right[:, 0] = np.eye(8)[0]
    set_heads(model, left, right, x)
    for functions, raw, head, wanted in zip(
        ritz_maps(model), model.raw_maps(), head_matrices(model, x), (left, right), strict=True
    ):
        assert np.allclose(head, wanted, atol=1e-15)
        assert torch.allclose(functions(x) @ torch.from_numpy(wanted), raw(x), atol=1e-12)


def test_ritz_maps_are_the_constant_the_inputs_and_the_last_hidden_layers():
    model = KoopmanLoRAModel(2, 4, hidden_dims=(6, 5)).double().eval()
    model.set_periodic([1], 7.0)  # three inputs: the other coordinate, cosine, sine
    x, _ = states()
    for functions, encode in zip(ritz_maps(model), (model.encoders.trunk_f, model.encoders.trunk_g), strict=True):
        assert functions(x).shape == (500, 1 + 3 + 5)
        assert torch.equal(functions(x)[:, 0], torch.ones(500).double())
        assert torch.equal(functions(x)[:, 1:4], model.prepare(x))
        assert torch.equal(functions(x)[:, 4:], encode(model.prepare(x)))


def test_very_large_states_have_no_linear_part():
    model = KoopmanLoRAModel((16, 17), 3, hidden_dims=(5,)).eval()
    assert ritz_maps(model)[0](torch.zeros(4, 16, 17)).shape == (4, 1 + 5)
    assert model.f(torch.zeros(4, 16, 17)).shape == (4, 3)


def test_svals_as_an_array():
    assert KoopmanLoRAModel(2, 4).svals_array() is None
    model = KoopmanLoRAModel(2, 3, learn_svals=True, has_centering=True)
    model.set_svals(torch.tensor([1.0, 0.5, 0.25]))
    assert model.svals_array().dtype == np.float64
    assert np.allclose(model.svals_array(), [1, 0.5, 0.25], atol=1e-7)


def test_standardisation_belongs_to_the_model():
    model = KoopmanLoRAModel(2, 4).double().eval()
    x, _ = states()
    wanted = model.f(x)
    model.standardize.set_statistics(torch.tensor([5.0, -3.0]), torch.tensor([2.0, 0.1]))
    shifted = x * torch.tensor([2.0, 0.1]) + torch.tensor([5.0, -3.0])
    assert torch.allclose(model.f(shifted), wanted, atol=1e-6)


def test_double_states_are_standardised_before_the_networks_precision_applies():
    model = KoopmanLoRAModel(1, 3).eval()
    x = 1e9 + torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    model.standardize.set_statistics(torch.tensor([1e9]), torch.tensor([1.0]))
    reference = KoopmanLoRAModel(1, 3).eval()
    reference.load_state_dict(model.state_dict())
    reference.standardize.set_statistics(torch.tensor([0.0]), torch.tensor([1.0]))
    assert model.f(x).dtype == torch.float32
    assert torch.allclose(model.f(x), reference.f(x - 1e9), atol=1e-6)


@pytest.mark.parametrize("input_dim", [np.int64(3), 3, (3,), [3]])
def test_sizes_may_be_numpy_integers(input_dim):
    assert KoopmanLoRAModel(input_dim, np.int64(2)).state_shape == (3,)


# ---- clock -----------------------------------------------------------------------------------------------------------

LAGGED = lagged_pairs(NoisyRotation(omega=0.5, noise=0.5).simulate(n_steps=400, seed=0), lag=3, dt=0.2, time_unit="ps")


def looped_model(n_steps=20):
    """A loop of one's own, as anyone would write it: no Fabric, no `fit`."""
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True, has_centering=True)
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-2), NestedLoRALoss(3)
    for _, (x, x_next) in zip(range(n_steps), DataLoader(LAGGED, batch_size=16, shuffle=True), strict=False):
        optimizer.zero_grad()
        loss(*model(x, x_next), model.svals).backward()
        optimizer.step()
    return model


def test_fit_tells_the_model_what_one_lag_is():
    model = KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    assert model.clock == Clock()
    fit(model, LAGGED, n_epochs=1, batch_size=64)
    assert model.clock == LAGGED.clock == Clock(3, 0.2, "ps")
    assert copy.deepcopy(model).clock == model.clock


def test_times_are_in_the_unit_of_the_pairs_after_a_loop_of_ones_own():
    model, loader = looped_model(), DataLoader(LAGGED, batch_size=100)
    spectrum = compute_koopman_spectrum(model, loader)
    assert (spectrum.attrs["lag"], spectrum.attrs["dt"], spectrum.attrs["time_unit"]) == (3, 0.2, "ps")
    assert spectrum.timescales.attrs["units"] == "ps"
    assert spectrum.frequencies.attrs["units"] == "1/ps"
    wanted = -3 * 0.2 / np.log(np.abs(spectrum.eigenvalues.values[1:]))
    assert np.allclose(spectrum.timescales[1:], wanted, rtol=1e-12)
    # the model is told: the same answer; batches of tensors know no clock, and take that of the model
    model.clock = LAGGED.clock
    for pairs in (loader, list(loader), iter(loader)):
        again = compute_koopman_spectrum(model, pairs)
        assert again.attrs["time_unit"] == "ps"
        assert np.allclose(again.timescales[1:], wanted, rtol=1e-6)


def test_times_count_in_lags_where_nobody_said_what_a_lag_is():
    batches = list(DataLoader(LAGGED, batch_size=100))
    spectrum = compute_koopman_spectrum(looped_model(), batches)
    assert spectrum.attrs["lag"] == "unknown"
    assert spectrum.timescales.attrs["units"] == "lag"
    assert np.allclose(spectrum.timescales[1:], -1 / np.log(np.abs(spectrum.eigenvalues.values[1:])), rtol=1e-12)


@pytest.mark.parametrize("other", [Clock(2, 0.2, "ps"), Clock(3, 0.1, "ps"), Clock(3, 0.2, "ns")], ids=str)
def test_a_model_and_pairs_of_two_clocks_are_refused(other):
    model = looped_model(2)
    model.clock = other
    with pytest.raises(ValueError, match=r"clocks must be one and the same .* got Clock\(lag=3, dt=0.2"):
        compute_koopman_spectrum(model, DataLoader(LAGGED, batch_size=100))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0}, "input_dim must be a positive integer or a shape of such; got 0"),
        ({"input_dim": ()}, r"input_dim must be a positive integer or a shape of such; got \(\)"),
        ({"input_dim": (3, 0)}, r"input_dim must be .* got \(3, 0\)"),
        ({"input_dim": 2.7}, r"input_dim must be .* got 2.7"),
        ({"input_dim": (3, 2.0)}, r"input_dim must be .* got \(3, 2.0\)"),
        ({"input_dim": "23"}, r"input_dim must be .* got '23'"),
        ({"n_modes": 0}, r"n_modes must be at least 1 \(has_centering=False\); got 0"),
        ({"n_modes": 1, "has_centering": True}, r"n_modes must be at least 2 \(has_centering=True\); got 1"),
        ({"activation": "gelu3"}, "activation must be one of .* got 'gelu3'"),
        ({"hidden_dims": (8, 0)}, "hidden_dims must be positive integers"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        KoopmanLoRAModel(**({"input_dim": 2, "n_modes": 4} | arguments))


def test_states_of_another_shape():
    model = KoopmanLoRAModel((3, 4), 2)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 3, 4\); got \(5, 12\)"):
        model.f(torch.zeros(5, 12))


@pytest.mark.parametrize("side", ["f", "g"])
def test_encoders_of_another_width(side):
    widths = {"f": 4, "g": 4} | {side: 3}
    model = KoopmanLoRAModel.from_encoders(2, 4, nn.Linear(2, widths["f"]), nn.Linear(2, widths["g"]))
    with pytest.raises(ValueError, match=rf"encoder_{side} must give \(batch, 4\); got \(5, 3\)"):
        model(torch.zeros(5, 2), torch.zeros(5, 2))


def test_svals_of_another_length_are_refused():
    model = KoopmanLoRAModel(2, 4, learn_svals=True)
    before = model.svals.clone()
    with pytest.raises(ValueError, match=r"values must have shape \(4,\)"):
        model.set_svals(torch.ones(1))
    assert torch.equal(model.svals, before)
    with pytest.raises(ValueError, match="learn_svals=False"):
        KoopmanLoRAModel(2, 4).set_svals(torch.ones(4))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.ones((3, 2)), "z must be a Tensor; got an array of shape"),
        (torch.ones(3, 2, device="meta"), "z must be on cpu, as the weights are; got meta"),
        (torch.ones(3, 2).double(), r"z must be of torch.float32, .* got torch.float64. Use z.to\(torch.float32\)"),
    ],
)
def test_raw_features_are_of_prepared_states(z, message):
    with pytest.raises(TypeError, match=message):
        KoopmanLoRAModel(2, 3, hidden_dims=(4,)).raw(z, z)
