import collections
import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from koopman_lora import refinement
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.baselines import VAMPLoss
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.encoder_pairs import NoLinearHeadError, PairedMLP
from koopman_lora.encoders import CNN
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.fitted_questions import FittedQuestions
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.systems import NoisyRotation
from koopman_lora.training_loop import TrainingLoop

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


@pytest.mark.slow
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
    found = {n: make(n_epochs=2, lag=1).fit(X).spectrum_.canonical_singular_values.values for n, X in forms.items()}
    for name, values in found.items():
        assert np.allclose(values, found["labelled"], rtol=1e-9), name


@pytest.mark.slow
def test_explicit_pairs_ask_for_their_lag():
    x, x_next = LABELLED.values[0, :-2], LABELLED.values[0, 2:]
    with pytest.raises(ValueError, match=r"the lag of these pairs is unknown.*KoopmanLoRA\(lag=\.\.\.\)"):
        make().fit((x, x_next))
    assert make(lag=2, n_epochs=1).fit((x, x_next)).clock == Clock(2)
    assert make(n_epochs=1).fit(LABELLED).clock.lag == 1  # trajectories are cut, at one frame by default


def test_pairs_of_lists_of_different_lengths_never_cross_a_trajectory():
    estimator = make(lag=3, n_epochs=1).fit(ARRAYS)
    assert len(estimator.pairs_) == (601 - 3) + (400 - 3)
    assert (estimator.pairs_.x_next[597] == torch.from_numpy(ARRAYS[0][600])).all()
    assert (estimator.pairs_.x[598] == torch.from_numpy(ARRAYS[1][0])).all()


@pytest.mark.slow
def test_dt_and_its_unit_travel_to_the_spectrum():
    labelled = NoisyRotation(omega=0.5, noise=0.5, dt=0.25).simulate(n_steps=601, seed=0)
    estimator = make(lag=2).fit(labelled)
    spectrum = estimator.spectrum_
    assert Clock.from_attrs(spectrum.attrs) == estimator.clock == Clock(2, 0.25, "step")
    assert spectrum.timescales.attrs["units"] == "step"
    assert spectrum.frequencies.attrs["units"] == "1/step"
    given = make(lag=2, dt=0.5, time_unit="ps").fit(labelled.values[0]).spectrum_
    assert Clock.from_attrs(given.attrs) == Clock(2, 0.5, "ps")
    assert np.allclose(given.timescales[1:], 2 * spectrum.timescales[1:], rtol=1e-6)
    assert np.isclose(spectrum.timescales[1], 0.25 * 2 / 0.5**2, rtol=0.3)
    lower, upper = estimator.intervals(Bootstrap(n_resamples=50)).timescales_interval.sel(mode=2).values
    assert lower <= spectrum.timescales.sel(mode=2) <= upper


@pytest.mark.slow
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
        (np.array([[1.0], [{}]]), TypeError, "trajectory 0 must hold real numbers; got dtype object"),
        (values.astype(complex), TypeError, "trajectory 0 must hold real numbers; got dtype complex128"),
        ([], ValueError, "data is an empty list"),
        (
            values[:1],
            ValueError,
            r"lag=1 needs trajectories of more than 1 frames; data hold 1 sample",
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
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"gradient_clip": -1.0}, "gradient_clip must be positive; got -1.0"),
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
        ({"dt": -1.0}, "dt must be a positive finite time between two frames; got -1.0"),
        ({"shared_encoder": True, "encoder_f": own_encoder(), "encoder_g": own_encoder()}, "needs no encoder_g"),
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


def test_learned_values_agree_with_canonical_ones_after_refinement(fitted):
    svals = fitted.model_.svals.detach().double().numpy()
    assert fitted.refinement_.is_refined
    assert np.abs(svals - fitted.spectrum_.canonical_singular_values.values).max() < 1e-6
    assert np.abs(fitted.spectrum_.singular_values - fitted.spectrum_.canonical_singular_values).max() < 1e-4
    assert np.allclose(fitted.spectrum_.svals, svals)


@pytest.mark.slow
def test_without_refinement_the_state_is_the_trained_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = make(refine=False).fit(LABELLED)
    assert plain.refinement_ is None
    assert plain.training_.split.held_out is not None
    size = plain.diagnose(Bootstrap(n_resamples=20))["size"].to_series()
    assert size["non-orthogonality"] + size["training gap"] > 1e-3
    assert plain.scores().vamp_2 == pytest.approx(plain.validation().scores().vamp_2)
    refined = make().fit(LABELLED)
    assert refined.scores().vamp_e >= plain.scores().vamp_e - 1e-9


def test_all_pairs_train_where_nothing_is_held_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = make(refine=False, held_out=0, n_epochs=2).fit(LABELLED)
    assert estimator.training_.split.held_out is None
    assert len(estimator.training_.split.training) == len(estimator.pairs_)
    comparison = estimator.diagnose(Bootstrap(n_resamples=20))
    assert not comparison.has_held_out
    assert np.isnan(comparison["size"].sel(cause="generalisation gap"))
    assert not estimator.residuals().on_held_out_pairs
    for method in (estimator.validation, estimator.scores, estimator.select_n_modes):
        with pytest.raises(ValueError, match=r"no pairs were held out to validate on; fit with held_out=0\.1"):
            method()


@pytest.mark.slow
def test_svals_need_not_be_learned():
    estimator = make(learn_svals=False).fit(LABELLED)
    assert estimator.model_.svals is None
    assert "svals" not in estimator.spectrum_
    spectrum = estimator.spectrum_
    assert np.allclose(spectrum.singular_values, spectrum.canonical_singular_values, atol=1e-4)
    assert np.allclose(np.diag(spectrum.M_f), spectrum.canonical_singular_values, atol=1e-4)  # f = sqrt(sigma) phi
    assert np.allclose(
        estimator.diagnose(Bootstrap(n_resamples=20)).learned, spectrum.canonical_singular_values, atol=1e-4
    )


@pytest.mark.slow
def test_one_shared_encoder():
    estimator = make(shared_encoder=True, n_epochs=4).fit(LABELLED)
    assert estimator.model_.shared_encoder
    encoders, z = estimator.model_.encoders, torch.randn(5, 2)
    assert (encoders.trunk_f(z) == encoders.trunk_g(z)).all()
    assert not (encoders.f(z) == encoders.g(z)).all()  # refinement gives each side its own last layer
    assert np.allclose(estimator.spectrum_.canonical_singular_values[1:3], SIGMA[1:3], atol=0.06)


@pytest.mark.slow
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


# --- scikit-learn ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_leaves_random_states_alone():
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second, other = (
            make(seed=s, n_epochs=3, refine=False).fit(LABELLED).spectrum_.svals.values for s in (4, 4, 5)
        )
    assert (first == second).all()
    assert (first != other).any()
    assert (torch.random.get_rng_state() == state).all()
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


@pytest.mark.slow
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


HANDED_ON = [name for name, method in vars(FittedQuestions).items() if hasattr(method, "__wrapped__")]
PROPERTIES = [name for name, value in vars(FittedQuestions).items() if isinstance(value, property)]


def test_every_question_of_the_analysis_is_handed_on():
    questions = {name for name, _ in inspect.getmembers(KoopmanAnalysis, inspect.isfunction)}
    about_data = {"was_fitted_to", "pairs_of", "known_split"}  # what an analysis needs that was opened without its data
    asked = {name for name in questions if not name.startswith("_")} - about_data
    assert asked == {*HANDED_ON, "save", "scan_lags", "intervals"}


@pytest.mark.parametrize("name", HANDED_ON)
def test_questions_read_as_those_of_the_analysis(name):
    ours, theirs = getattr(KoopmanLoRA, name), getattr(KoopmanAnalysis, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__
    assert ours.__doc__
    assert ours.__name__ == name


def test_an_argument_of_a_question_has_its_name(fitted):
    assert list(inspect.signature(fitted.intervals).parameters) == ["bootstrap", "refit", "n_jobs"]
    with pytest.raises(TypeError, match="n_resamples"):
        fitted.intervals(n_resamples=5)


NOT_FITTED = r"this KoopmanLoRA is not fitted yet; call .fit\(trajectories\) first"


@pytest.mark.parametrize("name", [*HANDED_ON, "fitted", "intervals"])
def test_every_question_asks_for_a_fit_first(name):
    n_arguments = sum(
        parameter.default is parameter.empty
        for parameter in inspect.signature(getattr(KoopmanAnalysis, name, KoopmanLoRA.fitted)).parameters.values()
    )
    with pytest.raises(NotFittedError, match=NOT_FITTED) as caught:
        getattr(make(), name)(*[ARRAYS[0]] * (n_arguments - 1))
    assert isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("call", [lambda e: e.scan_lags(ARRAYS, [1, 2]), lambda e: e.save("nowhere")])
def test_scans_and_files_ask_for_a_fit_first(call):
    with pytest.raises(NotFittedError, match=NOT_FITTED):
        call(make())


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_attribute_asks_for_a_fit_first(name):
    assert not hasattr(make(), name)  # as scikit-learn looks at it
    with pytest.raises(NotFittedError, match=NOT_FITTED):
        getattr(make(), name)


class Broken(NestedLoRALoss):
    def forward(self, f, g, svals=None):
        return super().forward(f, g, svals) * torch.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "data", "error"),
    [
        ({}, np.full((50, 2), np.nan), ValueError),
        ({"n_modes": 1}, LABELLED, ValueError),
        ({"loss": Broken(3)}, LABELLED, NonFiniteLossError),
        # found out after the training, by the refinement
        ({"n_modes": 18, "n_epochs": 1}, LABELLED, ValueError),
        (
            {"encoder_f": nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "shared_encoder": True, "n_epochs": 1},
            LABELLED,
            NoLinearHeadError,
        ),
    ],
    ids=["data", "sizes", "loss", "refinement", "head"],
)
def test_a_refit_that_fails_leaves_the_earlier_fit_whole(options, data, error):
    estimator = make(n_epochs=1).fit(LABELLED)
    before = {name: getattr(estimator, name) for name in ("analysis_", "training_", *PROPERTIES)}
    weights = copy.deepcopy(estimator.model_.state_dict())
    features = estimator.features(ARRAYS[0])
    with pytest.raises(error, match=r"."):
        estimator.set_params(**options).fit(data)
    for name, value in before.items():
        assert getattr(estimator, name) is value or getattr(estimator, name) == value, name
    assert all(torch.equal(weights[name], value) for name, value in estimator.model_.state_dict().items())
    assert np.array_equal(estimator.features(ARRAYS[0]), features)


# --- passes over the pairs ---------------------------------------------------------------------------------------


def rows_after_the_loop(monkeypatch, **options):
    """States that each map of the encoders sees once the training loop is over."""
    rows, is_over = collections.Counter(), []
    run = TrainingLoop.run

    def run_then_count(self, *args):
        result = run(self, *args)
        is_over.append(True)
        return result

    def counted(name):
        whole = getattr(PairedMLP, name)

        def encode(self, x):
            rows[name] += len(x) * bool(is_over)
            return whole(self, x)

        return encode

    monkeypatch.setattr(TrainingLoop, "run", run_then_count)
    for name in ("f", "g", "trunk_f", "trunk_g"):
        monkeypatch.setattr(PairedMLP, name, counted(name))
    estimator = make(n_epochs=1, **options).fit(LABELLED)
    held_out = estimator.training_.split.held_out
    return rows, len(estimator.pairs_), 0 if held_out is None else len(held_out)


def test_with_refinement_a_fit_passes_twice_over_the_pairs(monkeypatch):
    monkeypatch.setattr(refinement, "ERRORS_TO_TELL", 0.0)  # no further fits, whatever the held-out pairs say
    rows, n_pairs, n_held_out = rows_after_the_loop(monkeypatch)
    assert n_held_out > 0
    # the last hidden layers, and at the held-out pairs once more; then the features, at both ends of every pair
    assert rows["trunk_f"] == rows["trunk_g"] == n_pairs + n_held_out
    assert rows["f"] == rows["g"] == 2 * n_pairs


@pytest.mark.parametrize("held_out", [0.1, 0])
def test_without_refinement_a_fit_passes_once_over_the_pairs(monkeypatch, held_out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, n_pairs, n_held_out = rows_after_the_loop(monkeypatch, refine=False, held_out=held_out)
    assert (n_held_out > 0) == (held_out > 0)
    assert rows["trunk_f"] == rows["trunk_g"] == 0
    assert rows["f"] == rows["g"] == 2 * n_pairs + n_held_out


# --- findings ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_warnings_of_a_small_batch_and_findings():
    with pytest.warns(UserWarning, match="batch_size=5 is small for 3 modes; use at least 12") as caught:
        estimator = make(batch_size=5, n_epochs=1).fit(LABELLED)
    assert {warning.filename for warning in caught} == {__file__}  # where the user called fit
    assert "small batch" in {f.name for f in estimator.findings_}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(n_epochs=1).fit(LABELLED)  # refinement mends the rest
