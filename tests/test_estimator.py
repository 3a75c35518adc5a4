import copy
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from koopman_lora import KoopmanLoRA
from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.encoders import CNN, NoLinearHeadError
from koopman_lora.losses import NestedLoRALoss, VAMPLoss
from koopman_lora.scores import validation_scores
from koopman_lora.systems import NoisyRotation
from koopman_lora.tables import comparison_text

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
LABELLED = SYSTEM.simulate(n_trajectories=2, n_steps=601, seed=0)
ARRAYS = [LABELLED.values[0], LABELLED.values[1, :400]]
SIGMA = SYSTEM.spectrum(lag=1, n_modes=5).singular_values


def make(n_modes=3, **options):
    return KoopmanLoRA(n_modes, **({"hidden_dims": (24, 16), "n_epochs": 8} | options))


@pytest.fixture(scope="module")
def fitted():
    return make(n_modes=5, n_epochs=30).fit(LABELLED)


def own_encoder(n_outputs=2, n_inputs=2):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(n_inputs, 16), nn.Tanh(), nn.Linear(16, n_outputs))


# --- what goes in ------------------------------------------------------------------------------------------------


def test_every_form_of_the_same_data_gives_the_same_numbers():
    x, x_next = LABELLED.values[0, :-1], LABELLED.values[0, 1:]
    forms = {
        "labelled": LABELLED[:1],
        "array": LABELLED.values[0],
        "list": [LABELLED.values[0]],
        "torch": torch.from_numpy(LABELLED.values[0]),
        "pairs of arrays": (x, x_next),
        "pairs of tensors": (torch.from_numpy(x), torch.from_numpy(x_next)),
        "LaggedPairs": lagged_pairs(LABELLED[:1]),
    }
    found = {n: make(n_epochs=2).fit(X).spectrum_.canonical_singular_values.values for n, X in forms.items()}
    for name, values in found.items():
        assert np.allclose(values, found["labelled"], rtol=1e-9), name


def test_pairs_of_lists_of_different_lengths_never_cross_a_trajectory():
    estimator = make(lag=3, n_epochs=1).fit(ARRAYS)
    assert len(estimator.pairs_) == (601 - 3) + (400 - 3)
    assert (estimator.pairs_.x_next[597] == torch.from_numpy(ARRAYS[0][600])).all()
    assert (estimator.pairs_.x[598] == torch.from_numpy(ARRAYS[1][0])).all()


def test_dt_and_its_unit_travel_to_the_spectrum():
    labelled = NoisyRotation(omega=0.5, noise=0.5, dt=0.25).simulate(n_steps=601, seed=0)
    estimator = make(lag=2).fit(labelled)
    spectrum = estimator.spectrum_
    assert (spectrum.lag, spectrum.dt, spectrum.time_unit) == (2, 0.25, "step")
    assert spectrum.timescales.attrs["units"] == "step"
    assert spectrum.frequencies.attrs["units"] == "1/step"
    given = make(lag=2, dt=0.5, time_unit="ps").fit(labelled.values[0]).spectrum_
    assert (given.dt, given.time_unit) == (0.5, "ps")
    assert np.allclose(given.timescales[1:], 2 * spectrum.timescales[1:], rtol=1e-6)
    assert np.isclose(spectrum.timescales[1], 0.25 * 2 / 0.5**2, rtol=0.3)
    intervals = estimator.intervals(n_resamples=50)
    assert (intervals.timescales[1, 0] <= spectrum.timescales[1]) & (
        spectrum.timescales[1] <= intervals.timescales[1, 1]
    )


@pytest.mark.parametrize("shape", [(9, 9), (2, 9, 9)], ids=["one channel", "two channels"])
def test_images_get_a_cnn(shape):
    grid = np.linspace(-1, 1, 9)
    x, y = LABELLED.values[0, :200].T
    images = x[:, None, None] * grid[:, None] + y[:, None, None] * grid[None, :]
    if len(shape) == 3:
        images = np.stack([images, images**2], axis=1)
    estimator = make(n_epochs=1, batch_size=64).fit(images)
    cnns = [m for m in estimator.model_.encoders.modules() if isinstance(m, CNN)]
    assert len(cnns) == 2
    assert cnns[0].trunk[0].in_channels == len(shape) - 1
    assert estimator.singular_functions(images[:7]).shape == (7, 3)
    shared = make(n_epochs=1, batch_size=64, shared_encoder=True).fit(images)
    assert shared.model_.shared_encoder


def test_bad_data_surface_with_a_name_and_advice():
    values = LABELLED.values[0].copy()
    constant = values.copy()
    constant[:, 1] = 2.0
    broken = values.copy()
    broken[17, 0] = np.nan
    cases = [
        (constant, ValueError, "data has constant columns: 1"),
        (LABELLED[0].copy(data=constant), ValueError, r"data has constant columns: 1 \(sin\)"),
        (broken, ValueError, "trajectory 0 holds NaN or inf at frame 17"),
        ([values, broken], ValueError, "trajectory 1 holds NaN or inf at frame 17"),
        ((values, broken), ValueError, "x_next holds NaN or inf at frame 17"),
        (np.arange(20).reshape(10, 2), TypeError, "trajectory 0 must be real floating point; got dtype int64"),
        (values.astype(object), TypeError, "trajectory 0 must be real floating point; got dtype object"),
        (values.astype(complex), TypeError, "trajectory 0 must be real floating point; got dtype complex128"),
        ([], ValueError, "data is an empty list"),
        (
            values[:1],
            ValueError,
            r"lag=1 needs trajectories of more than 1 frames; too short: trajectory 0 \(1 frames\)",
        ),
        (LABELLED.to_dataset(name="a"), TypeError, "data must be a DataArray, not a Dataset"),
    ]
    for data, error, message in cases:
        with pytest.raises(error, match=message):
            make().fit(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lag": 0}, "lag must be an integer number of frames, at least 1; got 0"),
        ({"n_modes": 1}, "n_modes must be at least 2"),
        ({"held_out": 0}, "held_out must be positive to choose the refinement's threshold; got 0. Use refine=False"),
        ({"held_out": 1.5}, "held_out must be a fraction of at least 0 and below 1"),
        ({"n_modes": 18}, r"n_modes=18 is more than the last hidden layer can carry \(16 units and the constant\)"),
        ({"batch_size": 2}, "batch_size must be at least n_modes=3"),
        ({"nesting": "joint"}, "nesting"),
        ({"activation": "gelu2"}, "activation"),
        ({"loss": VAMPLoss(), "reg_weight": 0.1}, "nesting and reg_weight belong to the default loss"),
        ({"loss": VAMPLoss(), "nesting": None}, "nesting and reg_weight belong to the default loss"),
        ({"encoder_g": own_encoder()}, "encoder_g needs an encoder_f"),
        ({"encoder_f": own_encoder()}, "shared_encoder=False needs an encoder_g"),
        ({"encoder_f": own_encoder(4), "encoder_g": own_encoder(4)}, r"encoder_f must give \(batch, 2\)"),
        ({"dt": -1.0}, "dt must be a positive number"),
    ],
)
def test_bad_options_surface_with_their_name(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(ARRAYS)


def test_an_encoder_g_alone_is_refused_for_images_too():
    images = np.random.default_rng(0).normal(size=(50, 9, 9))
    with pytest.raises(ValueError, match="encoder_g needs an encoder_f"):
        make(encoder_g=CNN(1, 2)).fit(images)


# --- what comes out ----------------------------------------------------------------------------------------------


def test_singular_values_of_a_known_system(fitted):
    assert np.allclose(fitted.spectrum_.canonical_singular_values, SIGMA, atol=0.06)
    assert fitted.spectrum_.canonical_singular_values[0] == pytest.approx(1, abs=1e-12)


def test_singular_functions_are_orthonormal_on_the_data_and_pair_up(fitted):
    x, x_next = fitted.pairs_.x, fitted.pairs_.x_next
    phi, psi = fitted.singular_functions(x, side="left"), fitted.singular_functions(x_next, side="right")
    n = len(x)
    assert np.allclose(phi.T @ phi / n, np.eye(5), atol=1e-5)
    assert np.allclose(psi.T @ psi / n, np.eye(5), atol=1e-5)
    assert np.allclose(phi.T @ psi / n, np.diag(fitted.spectrum_.canonical_singular_values), atol=1e-5)
    assert np.allclose(phi[:, 0], 1, atol=1e-6)
    assert np.abs(fitted.singular_functions(x) - phi).max() == 0  # left is the default
    assert np.abs(psi - fitted.singular_functions(x_next)).max() > 0.1


def test_eigenfunctions_are_of_unit_norm_and_evolve_by_their_eigenvalue(fitted):
    values = fitted.eigenfunctions(fitted.pairs_.x)
    assert np.iscomplexobj(values)
    assert np.allclose(np.mean(np.abs(values) ** 2, axis=0), 1, atol=1e-4)
    after = fitted.eigenfunctions(fitted.pairs_.x_next)
    correlation = np.mean(np.conj(values) * after, axis=0)
    assert np.allclose(correlation[:3], fitted.spectrum_.eigenvalues[:3], atol=0.03)


def test_functions_take_states_in_every_form(fitted):
    states = LABELLED.values[0, :5]
    wanted = fitted.singular_functions(states)
    for form in (torch.from_numpy(states), states.astype(np.float32), LABELLED[0, :5], states.tolist()):
        assert np.allclose(fitted.singular_functions(form), wanted, atol=1e-5)
    one_dimensional = make().fit(states_of_one_number())
    assert one_dimensional.singular_functions(np.array([0.1, 0.2])).shape == (2, 3)


def states_of_one_number():
    return LABELLED.values[0, :, 0]


def test_functions_refuse_other_shapes_and_sides(fitted):
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\); got \(4, 3\)"):
        fitted.singular_functions(np.ones((4, 3)))
    with pytest.raises(ValueError, match="side must be 'left' or 'right'; got 'both'"):
        fitted.singular_functions(np.ones((4, 2)), side="both")


def test_learned_values_agree_with_canonical_ones_after_refinement(fitted):
    svals = fitted.model_.svals.detach().double().numpy()
    assert fitted.refinement_.is_refined
    assert np.abs(svals - fitted.spectrum_.canonical_singular_values.values).max() < 1e-6
    assert np.abs(fitted.spectrum_.singular_values - fitted.spectrum_.canonical_singular_values).max() < 1e-4
    assert np.allclose(fitted.spectrum_.svals, svals)


def test_diagnose_after_refinement_leaves_the_error_of_sampling(fitted):
    comparison = fitted.diagnose(n_resamples=100)
    size = comparison["size"].to_series()
    assert comparison.verdict in ("sampling error", "generalisation gap")
    assert max(size["training gap"], size["non-orthogonality"], size["anisotropy"]) < 1e-3
    assert comparison.has_held_out
    assert comparison.verdict in comparison_text(comparison)


def test_without_refinement_the_state_is_the_trained_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = make(refine=False).fit(LABELLED)
    assert plain.refinement_ is None
    assert plain.training_.held_out is not None
    size = plain.diagnose(n_resamples=20)["size"].to_series()
    assert size["non-orthogonality"] + size["training gap"] > 1e-3
    assert plain.scores().vamp_2 == pytest.approx(validation_scores(plain.validation()).vamp_2)
    refined = make().fit(LABELLED)
    assert refined.scores().vamp_e >= plain.scores().vamp_e - 1e-9


def test_all_pairs_train_where_nothing_is_held_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = make(refine=False, held_out=0, n_epochs=2).fit(LABELLED)
    assert estimator.training_.held_out is None
    assert len(estimator.training_.train) == len(estimator.pairs_)
    comparison = estimator.diagnose(n_resamples=20)
    assert not comparison.has_held_out
    assert np.isnan(comparison["size"].sel(cause="generalisation gap"))
    assert not estimator.residuals().on_held_out_pairs
    for method in (estimator.validation, estimator.scores, estimator.select_n_modes):
        with pytest.raises(ValueError, match=r"held_out=0 left no pairs to validate on; fit with held_out=0\.1"):
            method()


def test_svals_need_not_be_learned():
    estimator = make(learn_svals=False).fit(LABELLED)
    assert estimator.model_.svals is None
    assert "svals" not in estimator.spectrum_
    spectrum = estimator.spectrum_
    assert np.allclose(spectrum.singular_values, spectrum.canonical_singular_values, atol=1e-4)
    assert np.allclose(np.diag(spectrum.M_f), spectrum.canonical_singular_values, atol=1e-4)  # f = sqrt(sigma) phi
    assert np.allclose(estimator.diagnose(n_resamples=20).learned, spectrum.canonical_singular_values, atol=1e-4)


def test_one_shared_encoder():
    estimator = make(shared_encoder=True, n_epochs=4).fit(LABELLED)
    assert estimator.model_.shared_encoder
    encoders, z = estimator.model_.encoders, torch.randn(5, 2)
    assert (encoders.trunk_f(z) == encoders.trunk_g(z)).all()
    assert not (encoders.f(z) == encoders.g(z)).all()  # refinement gives each side its own last layer
    assert np.allclose(estimator.spectrum_.canonical_singular_values[1:3], SIGMA[1:3], atol=0.06)


def test_your_own_encoders_are_copied_and_left_alone():
    encoder_f, encoder_g = own_encoder(), own_encoder()
    before = copy.deepcopy(encoder_f.state_dict())
    estimator = make(encoder_f=encoder_f, encoder_g=encoder_g).fit(LABELLED)
    assert estimator.model_.encoders.f is not encoder_f
    assert all((before[name] == value).all() for name, value in encoder_f.state_dict().items())
    assert estimator.encoder_f is encoder_f
    again = estimator.fit(LABELLED).spectrum_.canonical_singular_values
    assert np.allclose(
        again, make(encoder_f=own_encoder(), encoder_g=own_encoder()).fit(LABELLED).spectrum_.svals, atol=1e-6
    )


def test_an_encoder_without_a_linear_head_says_how_to_go_on():
    heads = {n: nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for n in ("encoder_f", "encoder_g")}
    with pytest.raises(NoLinearHeadError, match="Linear"):
        make(**heads).fit(LABELLED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert make(**heads, refine=False).fit(LABELLED).refinement_ is None


def test_another_loss_is_used():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default, nested, vamp = (
            make(refine=False, n_epochs=2, loss=loss).fit(LABELLED).spectrum_.canonical_singular_values.values
            for loss in (None, NestedLoRALoss(3), VAMPLoss())
        )
    assert np.allclose(default, nested)
    assert not np.allclose(default, vamp, atol=1e-9)


def test_compute_spectrum_of_other_data(fitted):
    fresh = SYSTEM.simulate(n_steps=2000, seed=9)
    spectrum = fitted.compute_spectrum(fresh)
    assert spectrum.n_pairs == 1999
    assert np.allclose(spectrum.canonical_singular_values[:3], SIGMA[:3], atol=0.06)
    pairs = lagged_pairs(fresh)
    model = fitted.model_
    wanted = estimate_moments(model.f, model.g, pairs)
    assert np.allclose(fitted.estimate_moments(fresh).T_fg, wanted.T_fg)
    same = fitted.compute_spectrum(fitted.pairs_)
    xr.testing.assert_allclose(same.drop_attrs(), fitted.spectrum_.drop_attrs())


# --- scikit-learn ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_leaves_random_states_alone():
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (make(seed=s, n_epochs=3).fit(LABELLED).spectrum_.svals.values for s in (4, 4, 5))
    assert (first == second).all()
    assert (first != other).any()
    assert (torch.random.get_rng_state() == state).all()
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


def test_scikit_learn_clones_it_with_all_settings():
    estimator = make(n_modes=4, lag=3, seed=7, nesting="seq", reg_weight=0.2, hidden_dims=(10,))
    twin = clone(estimator)
    assert twin is not estimator
    assert twin.get_params() == estimator.get_params()
    assert twin.set_params(lag=5).lag == 5
    assert estimator.lag == 3
    assert not hasattr(clone(make(n_epochs=1).fit(LABELLED)), "model_")
    with pytest.raises(ValueError, match="Invalid parameter 'lagg'"):
        estimator.set_params(lagg=1)


def test_every_argument_is_a_parameter_and_arrives():
    parameters = KoopmanLoRA().get_params()
    for name in parameters:
        marker = object()
        assert KoopmanLoRA(**{name: marker}).get_params(deep=False)[name] is marker


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.features(ARRAYS[0]),
        lambda e: e.singular_functions(ARRAYS[0]),
        lambda e: e.eigenfunctions(ARRAYS[0]),
        lambda e: e.estimate_moments(ARRAYS),
        lambda e: e.compute_spectrum(ARRAYS),
        lambda e: e.intervals(),
        lambda e: e.validation(),
        lambda e: e.diagnose(),
        lambda e: e.scores(),
        lambda e: e.select_n_modes(),
        lambda e: e.scan_lags(ARRAYS, [1, 2]),
        lambda e: e.residuals(),
    ],
)
def test_every_method_asks_for_a_fit_first(call):
    with pytest.raises(NotFittedError, match=r"this KoopmanLoRA is not fitted yet; call .fit\(trajectories\) first"):
        call(make())


def test_warnings_of_a_small_batch_and_findings():
    with pytest.warns(UserWarning, match="batch_size=5 is small for 3 modes; use at least 12"):
        estimator = make(batch_size=5, n_epochs=1).fit(LABELLED)
    assert "small batch" in {f.name for f in estimator.findings_}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(n_epochs=1).fit(LABELLED)  # refinement mends the rest


def test_the_number_of_modes_and_residuals_of_a_fit(fitted):
    selection = fitted.select_n_modes(energy=0.5)
    assert selection.energy_fraction == 0.5
    assert 3 <= selection.recommended <= 5
    residuals = fitted.residuals()
    assert residuals.on_held_out_pairs
    assert not residuals.is_spurious[:3].any()
    assert fitted.residuals(tolerance=1e-9).is_spurious.any()
