import itertools
import json

import numpy as np
import pytest
import torch
import xarray as xr

import koopman_lora as kl
from koopman_lora import _labels
from koopman_lora._labels import interval, labelled, provenance, trajectory_array

pytestmark = pytest.mark.slow


def test_every_setting_survives_a_file(tmp_path):
    settings = {
        "lag": 3,
        "dt": 0.5,
        "name": "x",
        "flag": True,
        "unset": np.False_,
        "nothing": None,
        "numpy": np.float32(0.25),
        "dims": (64, 128),
        "matrix": np.eye(2),
        "nested": {"a": [1, 2]},
        "odd": object,
    }
    xr.Dataset(attrs=provenance(**settings)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    attrs = xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf").attrs
    assert (attrs["lag"], attrs["dt"], attrs["name"], attrs["numpy"]) == (3, 0.5, "x", 0.25)
    assert attrs["flag"]
    assert not attrs["unset"]  # the text "False" would be true
    assert attrs["nothing"] == "None"
    assert json.loads(attrs["dims"]) == [64, 128]
    assert json.loads(attrs["matrix"]) == [[1.0, 0.0], [0.0, 1.0]]
    assert json.loads(attrs["nested"]) == {"a": [1, 2]}
    assert attrs["created_by"] == "koopman_lora"


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((2, 5), ("trajectory", "time")),
        ((2, 5, 3), ("trajectory", "time", "coordinate")),
        ((2, 5, 4, 6), ("trajectory", "time", "coordinate_0", "coordinate_1")),
    ],
)
def test_trajectories_of_any_state_shape_are_labelled(shape, dims):
    values = np.random.default_rng(0).normal(size=shape)
    array = trajectory_array(values, dt=0.1, time_unit="ns", coordinate_unit="nm", attrs={"seed": 3})
    assert array.dims == dims
    assert np.array_equal(array.values, values)
    assert np.allclose(array.time, 0.1 * np.arange(5))
    assert array.time.attrs["units"] == array.attrs["time_unit"] == "ns"
    assert (array.attrs["units"], array.attrs["dt"], array.attrs["seed"]) == ("nm", 0.1, 3)


def test_coordinates_are_named():
    array = trajectory_array(np.zeros((1, 2, 2)), dt=1.0, time_unit="s", coordinate_names=["phi", "psi"])
    assert array.coordinate.values.tolist() == ["phi", "psi"]


def test_every_dimension_gets_a_coordinate():
    dataset = labelled(
        {
            "a": (("bound", "mode"), np.zeros((2, 3))),
            "b": (("state", "part"), np.zeros((4, 2))),
            "c": ("lag", [0.5, 1.0]),
        },
        coords={"lag": [2, 5]},
    )
    assert {name: dataset[name].values.tolist() for name in dataset.dims} == {
        "bound": ["lower", "upper"],
        "mode": [1, 2, 3],
        "state": [0, 1, 2, 3],
        "part": ["real", "imaginary"],
        "lag": [2, 5],
    }


def test_intervals_are_named_after_their_value_with_the_bound_first():
    variables = interval("timescales", ["mode"], np.array([[1.0, 2.0], [3.0, 4.0]]), "ps")
    dataset = labelled(variables)
    assert dataset.timescales_interval.dims == ("bound", "mode")
    assert dataset.timescales_interval.attrs["units"] == "ps"
    assert dataset.timescales_interval.sel(bound="upper", mode=2) == 4.0


# ---- any two Datasets align ------------------------------------------------------------------------------------------

FEW = kl.Bootstrap(n_resamples=40)
DIMENSIONS = {value for name, value in vars(_labels).items() if name.isupper() and isinstance(value, str)}


def angles(x):
    """Fourier functions of a rotation: 1, cos, sin, cos 2, sin 2."""
    z = x[:, 0] + 1j * x[:, 1]
    z2 = z**2
    return torch.stack([torch.ones_like(x[:, 0]), z.real, z.imag, z2.real, z2.imag], dim=1)


def one_hot(x):
    return x


def of_the_rotation():
    system = kl.systems.NoisyRotation(omega=0.5, noise=0.5)
    data = system.simulate(n_trajectories=2, n_steps=900, seed=0)
    pairs = kl.lagged_pairs(data)
    split = kl.split_pairs(pairs, 0.25)
    moments = kl.estimate_moments(angles, angles, pairs, observables=kl.flat_state)
    train, held = (kl.estimate_moments(angles, angles, part) for part in split)
    estimator = kl.KoopmanLoRA(n_modes=4, hidden_dims=(16,), n_epochs=2).fit(data)
    model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True, has_centering=True)
    functions = [estimator.singular_functions(pairs.x)[:, :k] for k in (3, 4)]
    features = angles(pairs.x[:6])
    return {
        "koopman_spectrum": kl.koopman_spectrum(moments),
        "compute_koopman_spectrum": kl.compute_koopman_spectrum(estimator.model_, [(pairs.x, pairs.x_next)]),
        "ReferenceSpectrum": system.spectrum(1, 7).to_dataset(),
        "bootstrap_intervals": kl.bootstrap_intervals(moments, bootstrap=FEW),
        "compare_singular_values": kl.compare_singular_values(moments, held_out=held, bootstrap=FEW),
        "held_out_scores": kl.held_out_scores(train, held),
        "eigenpair_residuals": kl.eigenpair_residuals(moments, held),
        "eigen_analysis": kl.eigen_analysis(moments, bootstrap=FEW),
        "eigen_analysis of edmd": kl.eigen_analysis(moments, "edmd", bootstrap=FEW),
        "koopman_modes": kl.koopman_modes(moments),
        "forecast": kl.forecast(moments, features, 3).to_dataset(),
        "forecast_band": kl.forecast_band(moments, features, 3, bootstrap=FEW),
        "forecast_error": kl.forecast_error(moments, angles, pairs, data, 2),
        "history": kl.fit(model, split, n_epochs=2).history,
        "select_n_modes": estimator.select_n_modes(),
        "scan_lags": kl.scan_lags(estimator, data, [1, 2, 4], bootstrap=FEW),
        "cross_validate": kl.cross_validate(kl.KoopmanLoRA(3, hidden_dims=(8,), n_epochs=1), data, n_folds=3),
        "input_importance": estimator.input_importance(bootstrap=FEW, n_pairs=500),
        "sparse_surrogate": estimator.sparse_surrogate(n_pairs=500),
        "compare_subspaces": kl.compare_subspaces(*functions),
        "agreement_of_fits": kl.agreement_of_fits(functions),
        "coarse_coordinates": estimator.coarse_coordinates(pairs.x[:6]).to_dataset(),
        "evaluate_on_grid": kl.evaluate_on_grid(np.cos, {"coordinate": np.arange(3)}).to_dataset(),
        "timescales_from_singular_values": kl.timescales_from_singular_values(
            estimator.spectrum_, reversible=True
        ).to_dataset(),
    }


def of_the_chain():
    chain = kl.systems.FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=2, coupling=0.05)
    data = chain.simulate(n_trajectories=2, n_steps=3000, seed=0)
    by_lag = [kl.estimate_moments(one_hot, one_hot, kl.lagged_pairs(data, lag)) for lag in (1, 2, 4)]
    blocks = np.kron(np.eye(3), np.ones((2, 1)))
    return {
        "chain's spectrum": kl.koopman_spectrum(by_lag[0]),
        "number_of_states": kl.number_of_states(by_lag[0], bootstrap=FEW),
        "macroscopic_model": kl.macroscopic_model(by_lag[0], bootstrap=FEW),
        "chapman_kolmogorov": kl.chapman_kolmogorov(by_lag, blocks, bootstrap=FEW),
        "chapman_kolmogorov of functions": kl.chapman_kolmogorov(by_lag, n_states=3, bootstrap=None),
    }


def of_a_matrix():
    matrix = np.random.default_rng(0).normal(size=(12, 9))
    return {"NeuralSVD": kl.NeuralSVD(n_modes=3, max_steps=50).fit(matrix).to_dataset()}


@pytest.fixture(scope="module")
def results():
    """One Dataset of every public function that makes one."""
    return of_the_rotation() | of_the_chain() | of_a_matrix()


def test_every_dimension_has_a_coordinate_and_a_name_of_the_list(results):
    for name, dataset in results.items():
        assert set(dataset.dims) <= DIMENSIONS, name
        assert [dim for dim in dataset.dims if dim not in dataset.coords] == [], name


def test_modes_count_from_one_everywhere(results):
    with_modes = {name: dataset for name, dataset in results.items() if "mode" in dataset.dims}
    assert len(with_modes) > 12
    for name, dataset in with_modes.items():
        assert dataset.mode.values.tolist() == list(range(1, dataset.sizes["mode"] + 1)), name


def test_intervals_have_the_bound_first_and_stand_beside_their_value(results):
    variables = [(name, str(v)) for name, dataset in results.items() for v in dataset.data_vars]
    found = [(name, variable) for name, variable in variables if variable.endswith("_interval")]
    assert len(found) > 15
    for name, variable in found:
        dataset = results[name]
        assert dataset[variable].dims[0] == "bound", (name, variable)
        assert dataset.bound.values.tolist() == ["lower", "upper"], name
        lower, upper = dataset[variable].values
        assert not (lower > upper).any(), (name, variable)
        value = variable.removesuffix("_interval")
        if value in dataset:
            assert {*dataset[variable].dims} - {"bound", "part"} == {*dataset[value].dims}, (name, variable)
            assert dataset[variable].attrs.get("units", "1") == dataset[value].attrs.get("units", "1"), (name, variable)


def test_a_dimension_called_bound_is_of_an_interval_only(results):
    for name, dataset in results.items():
        of_bounds = {v for v in dataset.data_vars if "bound" in dataset[v].dims}
        assert {v for v in of_bounds if not str(v).endswith("_interval")} == set(), name


def only_along(dataset, dims):
    """The coordinates of some dimensions, and nothing else."""
    return dataset.drop_vars([name for name in dataset.variables if name not in dims])


def test_any_two_results_align(results):
    """On a shared dimension labels agree: exactly where it is equally long, else as far as the shorter one reaches."""
    for (name, a), (other, b) in itertools.combinations(results.items(), 2):
        shared = set(a.dims) & set(b.dims)
        equal = [dim for dim in shared if a.sizes[dim] == b.sizes[dim]]
        xr.align(only_along(a, equal), only_along(b, equal), join="exact")
        for dim in shared:
            n = min(a.sizes[dim], b.sizes[dim])
            assert np.array_equal(a[dim].values[:n], b[dim].values[:n]), (name, other, dim)


def test_results_of_one_kind_subtract_mode_by_mode(results):
    """What alignment is for: a fit of 5 modes less the truth of 7 is a difference of the 5 that both have."""
    difference = results["koopman_spectrum"].canonical_singular_values - results["ReferenceSpectrum"].singular_values
    assert difference.mode.values.tolist() == [1, 2, 3, 4, 5]
    assert np.abs(difference).max() < 0.05


def test_every_result_survives_a_file(results, tmp_path):
    for name, dataset in results.items():
        assert kl.load_dataset(kl.save_dataset(dataset, tmp_path / "a.nc")).identical(dataset), name
