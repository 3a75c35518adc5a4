"""A saved analysis answers as it did before: with the data everything, without them all that needs no frames."""

import dataclasses
import json
import shutil
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import koopman_lora as kl
from koopman_lora.analysis_files import read_fitted
from koopman_lora.fitted_functions import DataNeededError
from koopman_lora.systems import NoisyRotation

# every case is fitted, saved and opened
pytestmark = [pytest.mark.slow, pytest.mark.any_processor]

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
LABELLED = SYSTEM.simulate(n_trajectories=2, n_steps=700, seed=0)
OTHER = SYSTEM.simulate(n_trajectories=1, n_steps=300, seed=1)
ANGLE = np.arctan2(LABELLED.values[0, :, 1], LABELLED.values[0, :, 0])
PIXELS = np.arange(8)
# a bright spot that goes round in images of 8 x 8 pixels
IMAGES = np.exp(
    -((PIXELS[:, None] - 3.5 - 2 * np.cos(ANGLE[:, None, None])) ** 2)
    - (PIXELS - 3.5 - 2 * np.sin(ANGLE[:, None, None])) ** 2
)
WIDE = np.repeat(np.repeat(IMAGES, 5, axis=1), 5, axis=2)  # 1600 pixels: more than are kept
RAGGED = [LABELLED.values[0], LABELLED.values[1, :500]]
PAIRS = (LABELLED.values[0, :-3], LABELLED.values[0, 3:])
FEW = kl.Bootstrap(n_resamples=50, level=0.9, seed=1)


def own_encoder():
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


class Turns(nn.Module):
    """Complex features (x + i y)^m, m = 1, 2, times learnable factors."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.ones(2))

    def forward(self, x):
        z = torch.complex(x[:, 0], x[:, 1])
        return torch.stack([z, z**2], dim=1) * self.factors


class Case(NamedTuple):
    """Data, settings, and what builds the encoders again."""

    data: object
    options: dict
    encoders: tuple = ()


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


CASES = {
    "default": lambda: Case(LABELLED, {}),
    "physical time": lambda: Case(RAGGED, {"lag": 2, "dt": 0.5, "time_unit": "ps"}),
    "shared encoder": lambda: Case(LABELLED, {"shared_encoder": True}),
    "not refined": lambda: Case(LABELLED, {"refine": False}),
    "nothing held out": lambda: Case(LABELLED, {"refine": False, "held_out": 0.0}),
    "svals not learned": lambda: Case(LABELLED, {"learn_svals": False}),
    "pairs of unknown lag": lambda: Case(PAIRS, {"refine": False, "held_out": 0.0}),
    "pairs of known lag": lambda: Case(PAIRS, {"lag": 3}),
    "images": lambda: Case(IMAGES, {"n_epochs": 1}),
    "wide images": lambda: Case(WIDE, {"n_epochs": 1}),
    "own encoders": lambda: Case(
        LABELLED,
        {"encoder_f": seeded(own_encoder), "encoder_g": seeded(own_encoder)},
        (own_encoder, own_encoder),
    ),
    "complex encoders": lambda: Case(
        LABELLED, {"encoder_f": Turns(), "encoder_g": Turns(), "refine": False}, (Turns, Turns)
    ),
}  # fmt: skip


class Saved(NamedTuple):
    """A fit, its data, and the folder that it was saved in."""

    estimator: kl.KoopmanLoRA
    data: object
    folder: str
    encoders: tuple
    known: dict  # what was opened and asked before: tests look at it and change nothing

    def open(self, data=None):
        return kl.open_analysis(self.folder, data, *(make() for make in self.encoders))

    def opened(self, data=None):
        """`open`, of the same data once."""
        return self._once(("opened", id(data)), lambda: self.open(data))

    def answer(self, name):
        """What the estimator answers to one of QUESTIONS."""
        return self._once(name, lambda: answer(QUESTIONS[name], self.estimator, states_of(self)))

    def _once(self, key, make):
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


def fit_and_save(case, folder):
    options = {"n_modes": 3, "hidden_dims": (16,), "n_epochs": 3, "seed": 2} | case.options
    estimator = kl.KoopmanLoRA(**options).fit(case.data)
    return Saved(estimator, case.data, estimator.save(folder), case.encoders, {})


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    return fit_and_save(CASES[request.param](), tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return fit_and_save(CASES["default"](), tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def of_other_data(tmp_path_factory):
    return fit_and_save(Case(OTHER, {"n_epochs": 1}), tmp_path_factory.mktemp("other"))


def states_of(saved):
    return saved.estimator.pairs_.x[:9]


def assert_same(actual, expected):
    """The same numbers to the last few digits, under the same names, dimensions, coordinates and attributes."""
    if isinstance(expected, xr.Dataset):
        assert {n: v.dtype for n, v in actual.variables.items()} == {n: v.dtype for n, v in expected.variables.items()}
        assert without_time(actual.attrs) == without_time(expected.attrs)
        assert list(actual.data_vars) == list(expected.data_vars)
        for name in expected.variables:
            assert actual[name].attrs == expected[name].attrs, name
        xr.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def without_time(attrs):
    return {name: value for name, value in attrs.items() if name != "created_at"}


def answer(question, *args):
    """What is answered, or the words of the refusal."""
    try:
        return question(*args)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


QUESTIONS = {
    "intervals": lambda a, x: a.intervals(FEW),
    "diagnose": lambda a, x: a.diagnose(FEW),
    "scores": lambda a, x: a.scores(),
    "select_n_modes": lambda a, x: a.select_n_modes(),
    "residuals": lambda a, x: a.residuals(),
    "eigen_analysis": lambda a, x: a.eigen_analysis(),
    "eigen_analysis with intervals": lambda a, x: a.eigen_analysis("edmd", FEW),
    "koopman_modes": lambda a, x: a.koopman_modes(),
    "forecast": lambda a, x: a.forecast(x, 4, bootstrap=FEW),
    "forecast backward": lambda a, x: a.forecast(x, [2], direction="backward", bootstrap=FEW),
    "features": lambda a, x: a.features(x),
    "left singular functions": lambda a, x: a.singular_functions(x, "left"),
    "right singular functions": lambda a, x: a.singular_functions(x, "right"),
    "eigenfunctions": lambda a, x: a.eigenfunctions(x),
}
NEED_OBSERVABLES = {"koopman_modes", "forecast", "forecast backward"}
NEED_HELD_OUT = {"scores", "select_n_modes"}


def spectra_and_defaults(a):
    spectrum = a.spectrum if isinstance(a, kl.KoopmanAnalysis) else a.spectrum_
    return {"spectrum": spectrum, "history": (a if isinstance(a, kl.KoopmanAnalysis) else a.analysis_).fitted.history}


# ---- the same answers ------------------------------------------------------------------------------------------------


def test_all_that_needs_no_frames_is_answered_as_before_saving(saved):
    opened, states = saved.opened(), states_of(saved)
    for name, expected in spectra_and_defaults(saved.estimator).items():
        assert_same(spectra_and_defaults(opened)[name], expected)
    is_wide = states[0].numel() > 1024
    for name, question in QUESTIONS.items():
        found = answer(question, opened, states)
        if is_wide and name in NEED_OBSERVABLES:
            assert found.startswith("DataNeededError: the frames of the fit are needed to project observables on"), name
            continue
        expected = saved.answer(name)
        if isinstance(expected, str):
            assert found == expected, name
        else:
            assert_same(found, expected)


def test_with_the_data_everything_is_answered_as_before_saving(saved):
    opened, states = saved.opened(saved.data), states_of(saved)
    for name, question in QUESTIONS.items():
        expected, found = saved.answer(name), answer(question, opened, states)
        if isinstance(expected, str):
            assert found == expected, name
        else:
            assert_same(found, expected)
    split, again = saved.estimator.training_.split, opened.fitted.split
    assert np.array_equal(again.is_training, split.is_training)
    assert np.array_equal(again.is_held_out, split.is_held_out)


def test_only_what_cannot_be_known_is_refused(saved):
    """The questions of the two tests above are answered, not refused, wherever there is an answer."""
    fitted = saved.estimator.analysis_.fitted
    refused = {name for name in QUESTIONS if isinstance(saved.answer(name), str)}
    assert refused == (set() if fitted.validation is not None else NEED_HELD_OUT)


def test_an_opened_analysis_tells_of_its_fit(saved):
    opened, fitted = saved.opened().fitted, saved.estimator.analysis_.fitted
    assert opened.model.clock == fitted.model.clock == opened.moments.everywhere.clock
    for name in ("findings", "recipe", "fingerprint", "seed"):
        assert getattr(opened, name) == getattr(fitted, name), name
    assert dict(opened.settings) == json.loads(json.dumps(dict(fitted.settings)))
    assert opened.split is None
    assert (opened.validation is None) == (fitted.validation is None)
    assert opened.moments.everywhere.observable_names == fitted.moments.everywhere.observable_names
    assert opened.moments.everywhere.n_blocks == fitted.moments.everywhere.n_blocks > 8


def test_what_the_refinement_did_is_remembered(saved):
    opened, result = saved.opened().fitted.refinement, saved.estimator.refinement_
    if result is None:
        assert opened is None
        return
    assert type(opened.is_refined) is bool
    for field in dataclasses.fields(result):
        before, after = getattr(result, field.name), getattr(opened, field.name)
        if field.name == "validation":
            assert after.scores() == pytest.approx(before.scores(), rel=1e-12)
            assert np.array_equal(after.of_folds, before.of_folds)
        else:
            assert np.array_equal(before, after), field.name


def test_saving_an_opened_analysis_changes_nothing(saved, tmp_path):
    again = kl.open_analysis(saved.opened().save(tmp_path / "again"), None, *(make() for make in saved.encoders))
    assert_same(again.spectrum, saved.estimator.spectrum_)
    assert_same(answer(again.residuals), answer(saved.estimator.residuals))
    assert again.fitted.recipe == saved.estimator.analysis_.fitted.recipe


def test_the_spectrum_lies_in_the_folder_for_other_programs(saved):
    assert_same(kl.load_dataset(saved.folder / "spectrum.nc"), saved.estimator.spectrum_)


def test_complex_functions_keep_their_imaginary_part(tmp_path):
    saved = fit_and_save(CASES["complex encoders"](), tmp_path)
    pairs = saved.estimator.pairs_
    for asked in (saved.estimator, saved.opened()):
        phi, psi = asked.singular_functions(pairs.x), asked.singular_functions(pairs.x_next, "right")
        assert np.iscomplexobj(phi)
        assert np.allclose(np.conj(phi.T) @ phi / len(pairs), np.eye(3), atol=1e-5)
        sigma = saved.estimator.spectrum_.canonical_singular_values
        assert np.allclose(np.conj(phi.T) @ psi / len(pairs), np.diag(sigma), atol=1e-5)


@pytest.mark.parametrize("method", ["K_matrix", "canonical"])
def test_slow_coordinates_need_no_frames(default, method):
    found = answer(default.opened().coarse_coordinates, LABELLED.values[0, :9], method)
    expected = answer(default.estimator.coarse_coordinates, LABELLED.values[0, :9], method)
    assert_same(found, expected) if not isinstance(expected, str) else pytest.fail(expected)


def test_numbers_of_numpy_as_settings_come_back_as_numbers(tmp_path):
    options = {"seed": np.int64(3), "held_out": np.float32(0.125), "n_epochs": 1}
    saved = fit_and_save(Case(LABELLED, options), tmp_path)
    opened = saved.open(LABELLED)
    assert opened.fitted.recipe == saved.estimator.training_.split.recipe
    assert opened.fitted.seed == 3
    assert_same(opened.intervals(FEW), saved.estimator.intervals(FEW))


# ---- what needs frames -----------------------------------------------------------------------------------------------


def squares(x):
    return x.flatten(1)[:, :2] ** 2


NEED_FRAMES = {
    "coarse_grain": lambda a, x: a.coarse_grain(2, bootstrap=FEW),
    "membership_map": lambda a, x: np.asarray(a.membership_map(2)(x)),
    "input_importance": lambda a, x: a.input_importance(bootstrap=FEW),
    "sparse_surrogate": lambda a, x: a.sparse_surrogate(),
    "forecast of other observables": lambda a, x: a.forecast(x, 3, squares, bootstrap=FEW),
    "koopman_modes of other observables": lambda a, x: a.koopman_modes(squares),
}
PURPOSES = {
    "coarse_grain": "to find metastable sets in",
    "membership_map": "to find metastable sets in",
    "input_importance": "to permute inputs of",
    "sparse_surrogate": "to fit linear functions to",
    "forecast of other observables": "to project observables on",
    "koopman_modes of other observables": "to project observables on",
}


@pytest.mark.parametrize("name", NEED_FRAMES)
def test_what_needs_frames_asks_for_them(default, name):
    with pytest.raises(DataNeededError, match=rf"{PURPOSES[name]}; open the analysis with them: open_analysis\(folder"):
        NEED_FRAMES[name](default.opened(), states_of(default))


@pytest.mark.parametrize("name", NEED_FRAMES)
def test_with_the_data_they_are_answered_as_before_saving(default, name):
    states = states_of(default)
    assert_same(NEED_FRAMES[name](default.opened(LABELLED), states), NEED_FRAMES[name](default.estimator, states))


def test_states_of_many_entries_are_forecast_with_the_data_only(tmp_path):
    saved = fit_and_save(CASES["wide images"](), tmp_path)
    assert "H_f" not in saved.opened().moments
    with pytest.raises(DataNeededError, match="to project observables on"):
        saved.opened().forecast(WIDE[:2], 1)
    expected = saved.estimator.forecast(WIDE[:2], 1, bootstrap=FEW)
    assert expected.sizes["observable"] == 1600
    assert_same(saved.opened(WIDE).forecast(WIDE[:2], 1, bootstrap=FEW), expected)


# ---- other data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [OTHER, LABELLED[:1], LABELLED[::-1], LABELLED.astype(np.float32), LABELLED.isel(time=slice(0, 600))],
    ids=["other run", "one of two", "other order", "rounded", "shorter"],
)
def test_other_data_are_refused_with_both_numbers_of_pairs(default, data):
    n_pairs = data.sizes["trajectory"] * (data.sizes["time"] - 1)
    with pytest.raises(
        ValueError, match=rf"data are not those of the fit, which had 1398 pairs; these give {n_pairs}\. .*applied_to"
    ):
        default.open(data)


def test_the_same_data_in_another_form_are_the_same(default):
    for data in (list(LABELLED.values), LABELLED.transpose(), [torch.from_numpy(values) for values in LABELLED.values]):
        assert default.open(data).fitted.split is not None


def test_other_data_may_be_asked_about_without_a_fit(default):
    there, expected = default.opened().applied_to(OTHER), default.estimator.applied_to(OTHER)
    assert_same(there.spectrum, expected.spectrum)
    assert_same(there.spectrum, default.estimator.compute_spectrum(OTHER))
    assert there.moments.n_pairs == 299
    assert_same(there.residuals(), expected.residuals())
    assert_same(there.coarse_grain(2, bootstrap=FEW), expected.coarse_grain(2, bootstrap=FEW))
    assert there.was_fitted_to(OTHER)
    assert not default.opened().was_fitted_to(OTHER)
    assert default.opened().was_fitted_to(LABELLED)


def test_nothing_was_fitted_to_other_data_so_all_of_them_count_as_held_out(default):
    there, estimator = default.opened().applied_to(OTHER), default.estimator
    expected = kl.vamp_scores(estimator.moments_, estimator.estimate_moments(OTHER))
    assert there.scores() == pytest.approx(expected, rel=1e-6)  # functions in the network's precision
    assert there.scores() == pytest.approx(estimator.applied_to(OTHER).scores(), rel=1e-12)
    assert there.validation().moments.n_pairs == 299
    assert_same(there.select_n_modes(), estimator.applied_to(OTHER).select_n_modes())
    assert there.fitted.recipe.by == "none"


# ---- damage ----------------------------------------------------------------------------------------------------------

FILES = ["model.safetensors", "moments.nc", "spectrum.nc", "history.nc", "validation.nc"]


@pytest.fixture
def folder(default, tmp_path):
    shutil.copytree(default.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_folder_holds_these_files_and_no_others(default):
    assert sorted(path.name for path in default.folder.iterdir()) == sorted(["analysis.json", *FILES])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}' is missing, damaged, or of another fit than analysis\.json"):
        kl.open_analysis(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' is missing, damaged, or of another fit"):
        kl.open_analysis(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_fit_is_named(folder, of_other_data, name):
    shutil.copy(of_other_data.folder / name, folder / name)
    with pytest.raises(ValueError, match=rf"{name}' is missing, damaged, or of another fit"):
        kl.open_analysis(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"analysis\.json' is damaged"),
        ('{"format": "koopman', r"analysis\.json' is damaged"),
        ("[]", r"analysis\.json' is damaged"),
        ("{}", r"analysis\.json' is not an analysis of this koopman_lora; its format is None"),
        ('{"format": "koopman_lora.analysis.v0"}', r"analysis\.json' is not an analysis .*; its format is 'koopman"),
        ('{"format": "koopman_lora.analysis.v6"}', r"analysis\.json' is damaged"),
        ('{"format": "koopman_lora.analysis.v6", "files": {}}', r"analysis\.json' is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_record_is_named(folder, text, message):
    (folder / "analysis.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        kl.open_analysis(folder)


@pytest.mark.parametrize("key", ["split", "findings", "refinement", "fingerprint", "seed", "settings"])
def test_a_record_that_lacks_an_entry_is_damaged(folder, key):
    record = json.loads((folder / "analysis.json").read_text())
    del record[key]
    (folder / "analysis.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"analysis\.json' is damaged"):
        kl.open_analysis(folder)


def test_a_record_with_another_number_in_it_is_damaged(folder):
    text = (folder / "analysis.json").read_text()
    (folder / "analysis.json").write_text(text.replace('"seed": 2', '"seed": 3'))
    with pytest.raises(ValueError, match=r"analysis\.json' is damaged \(its checksum is another\)"):
        kl.open_analysis(folder)


def test_a_record_of_other_bytes_than_text_is_damaged(folder):
    (folder / "analysis.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"analysis\.json' is damaged"):
        kl.open_analysis(folder)


def test_a_folder_without_a_record_is_none_of_ours(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=r"holds no analysis\.json; give a folder that KoopmanLoRA\.save"):
            kl.open_analysis(path)


def test_own_encoders_must_be_given(tmp_path):
    saved = fit_and_save(CASES["own encoders"](), tmp_path)
    with pytest.raises(ValueError, match="pass encoder_f"):
        kl.open_analysis(saved.folder)


def test_saving_over_an_older_fit_leaves_nothing_of_it(tmp_path):
    fit_and_save(CASES["default"](), tmp_path)
    saved = fit_and_save(CASES["nothing held out"](), tmp_path)
    opened = saved.open(LABELLED)
    assert opened.fitted.validation is None
    assert_same(opened.spectrum, saved.estimator.spectrum_)


def test_no_file_holds_code_or_frames(default):
    """One folder of a fit to 1400 frames is no larger for ten times as many, but for the held-out functions."""
    size = sum((default.folder / name).stat().st_size for name in FILES if name != "validation.nc")
    assert size < 800_000
    fitted = read_fitted(default.folder)
    assert fitted.split is None
    assert fitted.moments.everywhere.n_pairs == 1398


def test_an_analysis_is_shown_in_a_line_or_two(default):
    for analysis, words in ((default.opened(), "without its data"), (default.opened(LABELLED), "with its data")):
        assert words in repr(analysis)
        assert "1398 pairs" in repr(analysis)
        assert len(repr(analysis)) <= 2 * 120
