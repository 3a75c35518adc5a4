"""Exported modes, asked in a process that cannot import koopman_lora, against those of the analysis."""

import copy
import functools
import json
import os
import pathlib
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from koopman_lora._labels import trajectory_array
from koopman_lora.encoders import PeriodicEmbedding
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.mode_export import export_mode
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.systems import NoisyRotation

DATA = NoisyRotation(omega=0.5, noise=0.5).simulate(n_trajectories=2, n_steps=300, seed=0)
ANGLES = trajectory_array(90 * DATA.values, dt=0.5, time_unit="ps", coordinate_names=["phi", "psi"])
IMAGES = np.random.default_rng(0).normal(size=(150, 7, 6)).cumsum(0) / 5
COLOURS = np.stack([IMAGES, IMAGES[::-1]], axis=1)


class RowByRow(nn.Module):
    """A loop over the batch, which tracing would fix at one size."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        rows = []
        for i in range(x.shape[0]):
            rows.append(torch.cat([torch.sin(x[i]), x[i] * x[i]]))
        return self.head(torch.stack(rows))


class ByName(nn.Module):
    """Python that scripting does not know; in training it drops and normalises."""

    def __init__(self, side):
        super().__init__()
        self.layers = nn.ModuleDict({"f": nn.Linear(4, 6), "g": nn.Linear(4, 6)})
        self.embed, self.norm, self.drop = PeriodicEmbedding(3.0), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.side, self.head = side, nn.Linear(6, 3)

    def forward(self, x):
        steps = [self.embed, self.layers[self.side], self.norm, torch.tanh, self.drop]
        return self.head(functools.reduce(lambda z, step: step(z), steps, x))


class Harmonics(nn.Module):
    """Complex features exp(i m x)."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([1.0, 2.0j, 0.5 + 1j], dtype=torch.complex64))

    def forward(self, x):
        order = torch.arange(1, 4, device=x.device)
        return torch.exp(1j * x[:, :1] * order) * self.factors + x[:, 1:]


class WithNumpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.from_numpy(np.sin(np.tile(x.detach().numpy(), 2))))


# Data and settings of fits.
FITS = {
    "vectors": (DATA, {}),
    "unrefined": (DATA, {"refine": False}),
    "no svals": (DATA, {"learn_svals": False}),
    "shared": (DATA, {"shared_encoder": True}),
    "reversible": (DATA, {"reversible": True}),
    "double": (DATA, {"precision": "64-true"}),
    "angles": (ANGLES, {"periodic": True, "period": 360.0}),
    "one angle": (ANGLES, {"periodic": ["psi"], "period": 360.0}),
    "images": (IMAGES, {}),
    "colours": (COLOURS, {}),
    "large images": (np.repeat(np.repeat(IMAGES, 3, axis=1), 3, axis=2), {}),
    "to script": (DATA, {"encoder_f": RowByRow(), "encoder_g": RowByRow()}),
    "to trace": (DATA, {"encoder_f": ByName("f"), "encoder_g": ByName("g")}),
    "complex": (DATA, {"encoder_f": Harmonics(), "encoder_g": Harmonics(), "refine": False}),
    "numpy": (DATA, {"encoder_f": WithNumpy(), "encoder_g": WithNumpy()}),
}


class Case(NamedTuple):
    fit: str
    functions: str = "left"
    modes: object = None
    suffix: str = ".ptc"


CASES = {
    "left": Case("vectors"),
    "right": Case("vectors", "right", suffix=".pt"),
    "eigenfunctions, complex": Case("vectors", "eigen"),
    "eigenfunctions, real": Case("reversible", "eigen"),
    "one mode": Case("vectors", modes=3),
    "in another order": Case("vectors", "right", [4, 2]),
    "without refinement": Case("unrefined", "right"),
    "svals in the features": Case("no svals"),
    "shared encoder, f": Case("shared"),
    "shared encoder, g": Case("shared", "right"),
    "reversible, g": Case("reversible", "right"),
    "all periodic": Case("angles"),
    "one periodic": Case("one angle", "right"),
    "double precision": Case("double"),
    "images": Case("images"),
    "colour images": Case("colours", "right"),
    "large images": Case("large images"),
    "encoder to script": Case("to script"),
    "encoder to trace": Case("to trace", "right"),
    "torch.export": Case("vectors", suffix=".pt2"),
    "torch.export, double precision": Case("double", "eigen", suffix=".pt2"),
    "torch.export, images": Case("images", suffix=".pt2"),
    "torch.export, encoder": Case("to trace", suffix=".pt2"),
    "torch.export, complex features": Case("complex", "right", suffix=".pt2"),
}

# As PLUMED asks: one state at a time, in single precision, gradients of one column after another, of a frozen network.
ELSEWHERE = """
import json, pathlib, sys, warnings
sys.modules["koopman_lora"] = None
warnings.simplefilter("ignore")
import numpy as np, torch
try:
    import koopman_lora
except ImportError:
    pass
else:
    raise AssertionError("koopman_lora can be imported")

def asked(network, x):
    x = x.detach().requires_grad_()
    y = network(x)
    assert y.dtype == x.dtype and y.is_contiguous()
    slopes = [torch.autograd.grad(y[:, j].sum(), x, retain_graph=True)[0] for j in range(y.shape[1])]
    return y.detach().numpy(), torch.stack(slopes, dim=1).numpy()

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pt*")):
    states = torch.from_numpy(np.load(path.with_suffix(".npy")))
    if path.suffix == ".pt2":
        extra = {"modes.json": ""}
        networks = [torch.export.load(path, extra_files=extra).module()]
        dtypes = [torch.float64 if '"float64"' in extra["modes.json"] else torch.float32]
    else:
        extra = {"modes.json": ""}
        loaded = torch.jit.load(path, _extra_files=extra)
        networks, dtypes = [loaded, torch.jit.freeze(loaded.eval())], [torch.float32, torch.float64]
    found = {"card": np.array(json.dumps(json.loads(extra["modes.json"])))}
    for i, network in enumerate(networks):
        for dtype in dtypes:
            x, bits = states.to(dtype), torch.finfo(dtype).bits
            found[f"values {bits} {i}"], found[f"slopes {bits} {i}"] = asked(network, x)
            single = [network(x[n : n + 1]).detach() for n in range(3)]
            found[f"single {bits} {i}"] = torch.cat(single).numpy()
    if path.suffix != ".pt2":  # all of it in double precision, where a wrong formula cannot hide behind round-off
        double = torch.jit.load(path).double()
        for i, network in enumerate([double, torch.jit.freeze(double.eval())]):
            found[f"values exactly {i}"], found[f"slopes exactly {i}"] = asked(network, states)
    np.savez(path.with_suffix(".npz"), **found)
"""


@functools.cache
def fit(name):
    data, settings = FITS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of so short a fit
        return KoopmanLoRA(**{"n_modes": 4, "hidden_dims": (12, 8), "n_epochs": 2} | settings).fit(data).analysis_


def fitted(name):
    return fit(CASES[name].fit)


def states_of(name):
    """The first states of the fit, in single precision, so that they are the same in both."""
    return fitted(name).fitted.split.pairs.x[:40].float().double()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What a process without koopman_lora finds in the files, by case."""
    folder = tmp_path_factory.mktemp("modes")
    for name, case in CASES.items():
        path = fitted(name).export_mode(folder / f"{name}{case.suffix}", case.modes, case.functions)
        np.save(path.with_suffix(".npy"), states_of(name))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = [sys.executable, "-c", ELSEWHERE, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(folder / f"{name}.npz")) for name in CASES}


def columns(name, complex_values):
    """Real columns of functions (n, n_modes) of all modes: those asked for, real and imaginary part where complex."""
    modes = CASES[name].modes
    modes = [2, 3, 4] if modes is None else [modes] if isinstance(modes, int) else modes
    found = []
    for mode in modes:
        one = complex_values[:, mode - 1]
        found += [one.real, one.imag] if is_complex(one) else [one.real]
    return found


def is_complex(values):
    return torch.is_complex(values) and bool(values.imag.abs().max() > 0)


def own_functions(name, exactly=False):
    """Functions (n, n_modes) as torch computes them through the model, with the states that they depend on."""
    analysis, case = fitted(name), CASES[name]
    model = copy.deepcopy(analysis.model).double() if exactly else analysis.model
    x = states_of(name).requires_grad_()
    encode, variable = {
        "left": (model.f, "phi_coefficients"),
        "right": (model.g, "psi_coefficients"),
        "eigen": (model.f, "right_eigenfunction_coefficients"),
    }[case.functions]
    coefficients = torch.from_numpy(analysis.spectrum[variable].values)
    features = encode(x)
    wide = torch.promote_types(torch.promote_types(features.dtype, torch.float64), coefficients.dtype)
    return x, features.to(wide) @ coefficients.to(wide)


def own_slopes(name, exactly=False):
    x, values = own_functions(name, exactly)
    slopes = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in columns(name, values)]
    return torch.stack(slopes, dim=1).numpy()


def own_values(name, exactly=False):
    """As the analysis answers, or as it would in double precision."""
    if exactly:
        values = own_functions(name, exactly)[1].detach()
        return torch.stack(columns(name, values), dim=1).numpy()
    analysis, x, functions = fitted(name), states_of(name), CASES[name].functions
    values = analysis.eigenfunctions(x) if functions == "eigen" else analysis.singular_functions(x, side=functions)
    return torch.stack(columns(name, torch.from_numpy(values)), dim=1).numpy()


def distance(found, wanted):
    """Largest difference relative to the largest value, of every function."""
    over_states = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    scale = np.abs(wanted).max(axis=over_states)
    assert (scale > 1e-3).all()  # nothing is compared with zeros
    return (np.abs(found - wanted).max(axis=over_states) / scale).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("what", ["values", "slopes"])
def test_exported_modes_and_their_gradients_are_ours(what, name, elsewhere):
    own = {"values": own_values, "slopes": own_slopes}[what]
    wanted, is_double = own(name), fitted(name).model.dtype == torch.float64
    found = {key: value for key, value in elsewhere[name].items() if key.startswith(what)}
    assert len(found) == (1 if CASES[name].suffix == ".pt2" else 6)
    for key, values in found.items():
        assert values.shape == wanted.shape
        if "exactly" in key:
            assert distance(values, own(name, exactly=True)) <= 1e-12, key
        elif is_double and " 64 " in key:
            assert distance(values, wanted) <= 1e-12, key
        else:
            # freezing folds layers into each other, which rounds otherwise: by as much as single precision does at all
            is_folded = key.endswith(" 1")
            round_off = distance(wanted, own(name, exactly=True)) if is_folded else 0.0
            assert distance(values, wanted) <= max(1e-6, 3 * round_off), key


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_state_alone_has_the_values_that_it_has_among_others(name, elsewhere):
    found = elsewhere[name]
    for key in [key for key in found if key.startswith("single")]:
        wanted = found[key.replace("single", "values")]
        assert np.abs(found[key] - wanted[:3]).max() <= 2e-5 * np.abs(wanted).max(), key


@pytest.mark.slow
def test_a_file_says_what_is_in_it(elsewhere):
    card = json.loads(str(elsewhere["one periodic"]["card"]))
    spectrum = fitted("one periodic").spectrum
    assert card["inputs"] == ["phi", "psi"]
    assert card["periodic"] == [{"input": 1, "period": 360.0}]
    assert (card["lag"], card["dt"], card["time_unit"], card["lag_time"]) == (1, 0.5, "ps", 0.5)
    assert (card["functions"], card["precision"], card["state_shape"]) == ("right", "float32", [2])
    assert [output["name"] for output in card["outputs"]] == ["psi_2", "psi_3", "psi_4"]
    assert [output["mode"] for output in card["outputs"]] == [2, 3, 4]
    sigma = [output["singular_value"] for output in card["outputs"]]
    assert sigma == spectrum.canonical_singular_values.values[1:].tolist()


@pytest.mark.slow
def test_a_file_says_the_eigenvalues_of_its_eigenfunctions(elsewhere):
    card = json.loads(str(elsewhere["eigenfunctions, complex"]["card"]))
    spectrum = fitted("eigenfunctions, complex").spectrum.sel(mode=2)
    first, second = card["outputs"][:2]
    assert (first["name"], second["name"]) == ("eigenfunction_2_real", "eigenfunction_2_imaginary")
    for output in (first, second):
        assert complex(*output["eigenvalue"]) == spectrum.eigenvalues.item()
        assert (output["timescale"], output["frequency"]) == (spectrum.timescales.item(), spectrum.frequencies.item())
    assert card["inputs"] == ["cos", "sin"]


@pytest.mark.slow
def test_states_without_names_have_none_in_the_file(elsewhere):
    card = json.loads(str(elsewhere["images"]["card"]))
    assert card["inputs"] is None
    assert card["state_shape"] == [7, 6]


@pytest.mark.slow
def test_an_analysis_without_its_data_exports_the_same_file(tmp_path):
    analysis = fitted("one periodic")
    opened = open_analysis(analysis.save(tmp_path / "analysis"))
    extra = [{"modes.json": ""}, {"modes.json": ""}]
    one, other = (
        torch.jit.load(export_mode(a, tmp_path / f"{i}.ptc"), _extra_files=extra[i])
        for i, a in enumerate((analysis, opened))
    )
    x = states_of("one periodic")
    assert torch.equal(one(x), other(x))
    assert json.loads(extra[1]["modes.json"])["inputs"] == ["phi", "psi"]


def test_in_double_precision_the_network_is_smooth(tmp_path):
    """After .double() a difference quotient with a tiny step is the gradient, where single precision has only noise."""
    network = torch.jit.load(fit("vectors").export_mode(tmp_path / "m.pt", modes=2)).double()
    x, step = states_of("left").requires_grad_(), 1e-6
    slope = torch.autograd.grad(network(x).sum(), x)[0][:, 0]
    x = x.detach()
    quotient = (network(x + torch.tensor([step, 0.0])) - network(x - torch.tensor([step, 0.0])))[:, 0] / (2 * step)
    assert torch.allclose(quotient, slope, rtol=1e-6, atol=1e-7)


def test_the_model_and_random_numbers_stay_as_they_were(tmp_path):
    analysis = fitted("shared encoder, g")
    before = {name: values.clone() for name, values in analysis.model.state_dict().items()}
    state = torch.get_rng_state()
    export_mode(analysis, tmp_path / "m.pt", functions="right")
    assert all(torch.equal(values, before[name]) for name, values in analysis.model.state_dict().items())
    assert all(p.requires_grad for p in analysis.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "m.pt"
    return torch.jit.load(fit("vectors").export_mode(path))


@pytest.mark.parametrize("x", [torch.zeros(3, 1), torch.zeros(2), torch.zeros(3, 2, 1), torch.zeros(3, 2).long()])
def test_the_network_refuses_other_states(x, loaded):
    with pytest.raises(torch.jit.Error, match=r"x must hold floating-point numbers of shape \(batch, 2\)"):
        loaded(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "m.onnx"}, r"path must end in .pt or .ptc \(TorchScript\) or .pt2 \(torch.export\); got 'm.onnx'"),
        ({"modes": 1}, "modes must lie between 2 and 4; got 1, which is the constant function"),
        ({"modes": [2, 2]}, r"modes must be different numbers between 2 and 4; got \[2, 2\]"),
        ({"modes": 5}, "modes must be different numbers between 2 and 4; got 5"),
        ({"modes": []}, "modes must be different numbers between 2 and 4"),
        ({"functions": "both"}, "functions must be one of 'left', 'right', 'eigen'; got 'both'"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit("vectors").export_mode(**{"path": "m.pt", **arguments})
    assert list(pathlib.Path().iterdir()) == []


def test_an_estimator_in_place_of_its_analysis_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"analysis must be a KoopmanAnalysis, such as estimator.analysis_; got Koopman"
    ):
        export_mode(KoopmanLoRA(), tmp_path / "m.pt")


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder, which is not replaced by a file"):
        fit("vectors").export_mode(tmp_path / "m.pt")


@pytest.mark.slow
def test_an_encoder_that_torch_can_neither_script_nor_trace_is_an_error_that_says_why(tmp_path):
    expected = "the encoder, WithNumpy, cannot be exported to TorchScript; it cannot be scripted: .*it cannot be traced"
    with pytest.raises(ValueError, match=expected):
        fit("numpy").export_mode(tmp_path / "m.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder"), [("to script", "RowByRow"), ("numpy", "WithNumpy")])
def test_an_encoder_that_torch_cannot_export_is_an_error_that_says_why(name, encoder, tmp_path):
    with pytest.raises(ValueError, match=f"the encoder, {encoder}, cannot be exported by torch.export: "):
        fit(name).export_mode(tmp_path / "m.pt2")


def test_complex_features_are_refused_where_their_gradients_would_fail(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .pt2 for complex features.*got '.*m.ptc'"):
        fit("complex").export_mode(tmp_path / "m.ptc")
