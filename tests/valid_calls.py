"""One valid call of every public function, class and method, found by introspection: what `fuzz.py` spoils."""

import copy
import dataclasses
import inspect
import pathlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr

import koopman_lora as kl

FRONT_DOORS = {
    "": kl, "plots.": kl.plots, "systems.": kl.systems, "datasets.": kl.datasets, "molecules.": kl.molecules
}  # fmt: skip


def public_callables():
    """Everything that a user may call, (name as users write it after `kl.`, callable): functions, classes, methods."""
    found = {}
    for prefix, module in FRONT_DOORS.items():
        for name in getattr(
            module, "__all__", dir(module)
        ):  # names of a lazy front door are not in its __dict__ before they are used
            value = getattr(module, name)
            if name.startswith("_") or isinstance(value, types.ModuleType):
                continue
            found[prefix + name] = value
            if inspect.isclass(value):
                found |= {f"{prefix}{name}.{method}": None for method in _methods(value)}
    return found


def _methods(cls):
    """Public methods and properties of ours that are called on an instance or a class; data fields are none."""
    for name, value in inspect.getmembers(cls):
        is_ours = any(name in c.__dict__ and c.__module__.startswith("koopman_lora") for c in cls.__mro__)
        is_asked = callable(value) or hasattr(value, "__get__")
        # scikit-learn makes set_..._request of the arguments of `fit`
        if is_ours and is_asked and not name.startswith("_") and not name.endswith("_request"):
            yield name


class Target(NamedTuple):
    """A public callable and a valid call of it; `bind` finds it on what is made anew for each call."""

    name: str
    owner: Any
    arguments: dict[str, Any]

    def fresh(self):
        """The callable and its arguments, copied: a call may change what it is given."""
        owner, arguments = copy.deepcopy((self.owner, self.arguments))
        return _bound(self.name, owner), arguments


def _bound(name: str, owner: Any) -> Callable[..., Any]:
    method = name.rpartition(".")[2]
    if isinstance(owner, Whole):
        return owner.call
    if isinstance(owner, types.FunctionType) or (inspect.isclass(owner) and owner.__name__ == method):
        return owner
    asked = inspect.getattr_static(type(owner), method, None)
    if asked is not None and not callable(asked) and not isinstance(asked, (staticmethod, classmethod)):
        return lambda: getattr(owner, method)  # a property
    return getattr(owner, method)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A class whose constructor only keeps its settings: called are the constructor and the fit."""

    call: Callable[..., Any]
    signature_of: Any


def columns(x):
    """Three functions of states (n, d), for tensors and arrays."""
    stack = torch.stack if isinstance(x, torch.Tensor) else np.stack
    return stack([x[:, 0] ** 0, x[:, 0], x[:, 0] * x[:, 1]], 1)


def line_functions(x):
    """Two functions on a line."""
    return np.concatenate([x**0, x], axis=1)


def encoder(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 6), torch.nn.Tanh(), torch.nn.Linear(6, n_out))


TOPOLOGY = kl.datasets.folder("alanine_dipeptide") / "topology.pdb"


def written_molecule(folder):
    """A trajectory of five frames as XTC, and its topology."""
    import mdtraj

    frames = mdtraj.load(str(TOPOLOGY))
    frames = mdtraj.join([frames] * 5)
    frames.time = np.arange(5.0)
    frames.save(str(folder / "run.xtc"))
    return folder / "run.xtc", TOPOLOGY


def arguments_by_name(folder):
    """Valid arguments by the name of the parameter, and by callable where one name means several things."""
    rng = np.random.default_rng(0)
    grid = xr.DataArray(rng.normal(size=(20, 3)), dims=("time", "lat"))
    torch.manual_seed(0)
    system = kl.systems.NoisyRotation()
    data = system.simulate(n_trajectories=2, n_steps=300, seed=0)
    X = list(data.values)
    pairs = kl.lagged_pairs(X, 1, dt=0.5, time_unit="ps")
    split = kl.split_pairs(pairs, 0.3)
    few = kl.Bootstrap(20)
    estimator = kl.KoopmanLoRA(3, hidden_dims=(6,), n_epochs=1).fit(data)
    analysis = estimator.fitted()
    chain = kl.systems.FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=1, coupling=0.2, seed=1)
    chain_pairs = [kl.lagged_pairs(list(chain.simulate(2, 400).values), lag) for lag in (1, 2)]
    chain_moments = [
        kl.estimate_moments(kl.flat_state, kl.flat_state, p, observables=kl.flat_state) for p in chain_pairs
    ]
    moments = kl.estimate_moments(columns, columns, pairs, observables=kl.flat_state)
    model = estimator.model_
    spectrum = kl.koopman_spectrum(moments)
    phi, psi = rng.normal(size=(2, 60, 3))
    phi[:, 0] = psi[:, 0] = 1.0
    reference = system.spectrum(1, 5)
    H = rng.normal(size=(12, 9))
    svd = kl.NeuralSVD(2, parametrization="features", hidden_dims=(12,), max_steps=5)
    svd.fit(H, row_features=H[:, :3], column_features=H.T[:, :3])
    coefficients = kl.membership_coefficients(phi, 3)
    line = kl.evaluate_on_grid(line_functions, {"x": np.linspace(-1, 1, 9)})
    plane = kl.evaluate_on_grid(columns, {"x": np.linspace(-1, 1, 9), "y": np.linspace(0, 1, 7)})
    band = kl.forecast_band(chain_moments[0], np.eye(3), 3, bootstrap=few)
    macro = kl.macroscopic_model(chain_moments[0], bootstrap=few)
    scan = kl.scan_lags(analysis, X, [1, 2], bootstrap=few)
    comparison = kl.compare_singular_values(moments, bootstrap=few)
    importance = kl.input_importance(columns, columns, pairs, bootstrap=few)
    batch = torch.from_numpy(X[0][:32].astype(np.float32))
    features = torch.randn(16, 3)
    paths = {name: folder / name for name in ("model.safetensors", "result.nc", "analysis", "data.npy")}
    kl.save_model(model, paths["model.safetensors"])
    kl.save_dataset(spectrum, paths["result.nc"])
    np.save(paths["data.npy"], X[0])
    estimator.save(paths["analysis"])
    molecule = kl.molecules.MoleculeFiles(*written_molecule(folder))

    def fitted(**settings):
        return kl.KoopmanLoRA(**{"n_modes": 3, "hidden_dims": (6,), "n_epochs": 1} | settings).fit(data)

    def decomposed(**settings):
        return kl.NeuralSVD(**{"max_steps": 5} | settings).fit(H)

    def transformer(**settings):
        return kl.FittedModes(**{"analysis": analysis} | settings).fit(X[0])

    common = {
        "X": X, "data": X, "pairs": pairs, "moments": moments, "model": model, "bootstrap": few, "spectrum": spectrum,
        "split": split, "system": system, "lags": [1, 2], "steps": 3, "x": X[0][:10],
        "features": rng.normal(size=(5, 3)),
        "svals": np.array([1.0, 0.6, 0.3]), "observables": kl.flat_state, "n_states": 3, "n_modes": 3, "lag": 1,
        "f": columns, "g": columns, "reference": reference, "H": H, "loader": [(batch, batch)], "device": "cpu",
        "comparison": comparison, "seed": 0, "names": ["M_f", "M_g", "T_fg"], "P": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "estimator": kl.KoopmanLoRA(3, hidden_dims=(6,), n_epochs=1), "held_out": 0.3, "memberships": np.eye(3),
        "phi": phi, "psi": psi, "functions": phi, "coefficients": coefficients, "train": moments, "test": moments,
        "fitted": analysis, "validation": analysis.validation(), "time_unit": "ps", "dt": 0.5,
        "folder": paths["analysis"],
        "hidden_dims": (6,), "input_dim": 2, "n_features": 3, "n_channels": 1, "channels": (4, 4), "name": "M_f",
        "x_next": batch, "eigenvalues": np.array([1.0, 0.5]), "result": svd.to_dataset(), "progress": False,
        "row_features": H[:, :3], "column_features": H.T[:, :3], "matrices": [H, H], "svd": svd, "error": band,
        "weights": None, "encoder_f": None, "encoder_g": None, "ax": plt.figure().add_subplot(), "n_epochs": 1,
        "A": np.array([[0.8, 0.1], [0.0, 0.5]]), "B": np.eye(2), "drift": np.array([[1.0, 0.2], [0.0, 2.0]]),
        "diffusion": np.eye(2), "transition_matrix": chain.transition_matrix, "n_steps": 50, "threshold": 1e-13,
        "n_shifts": 50, "other": kl.Clock(2, 0.5, "ps"), "purpose": "to look ahead", "training": pairs, "source": 0,
        "target": 1, "coordinates": [0], "truth": None, "max_steps": 5, "modes": [1, 2], "observable_names": ["a", "b"],
        "health": kl.data_health(data), "analysis": analysis,
    }  # fmt: skip
    special = {
        "Bootstrap.percentiles": {"samples": rng.normal(size=(20, 3))},
        "Bootstrap.weights": {"n_blocks": 32},
        "Bootstrap.t_factor": {"n_blocks": 32},
        "Clock.from_attrs": {"attrs": kl.Clock(2, 0.5, "ps").attrs()},
        "DPNetLoss.forward": {"f": features, "g": features, "svals": torch.ones(3)},
        "VAMPLoss.forward": {"f": features, "g": features, "svals": torch.ones(3)},
        "NestedLoRALoss": {"weights": [1.0, 1.0, 1.0]},
        "NestedLoRALoss.forward": {"f": features, "g": features, "svals": torch.ones(3)},
        "lora_loss": {"f": features, "g": features, "svals": torch.ones(3), "weights": [1.0, 1.0, 1.0],
                      "pair_weights": torch.arange(1.0, 17.0)},
        "lagged_pairs": {"weights": [2.0, 1.0]},
        "KoopmanLoRAModel.calibrate": {"x": batch, "x_next": batch},
        "KoopmanLoRAModel.calibrate_batches": {"batches": [(batch, batch)]},
        "KoopmanLoRAModel.forward": {"x": batch, "x_next": batch},
        "KoopmanLoRAModel.encode": {"z": batch, "z_next": batch},
        "KoopmanLoRAModel.from_encoders": {"encoder_f": encoder(2, 3), "encoder_g": encoder(2, 3)},
        "KoopmanLoRAModel.raw": {"z": batch, "z_next": batch},
        "KoopmanLoRAModel.set_normalisation": {"mean": torch.zeros(2, 2), "scale": torch.ones(2, 2),
            "svals": torch.ones(3)},
        "KoopmanLoRAModel.set_svals": {"values": torch.tensor([1.0, 0.5, 0.2])},
        "KoopmanLoRAModel.with_constant": {"features": features[:, :2]},
        "KoopmanLoRA.refits": {"n_refits": 8},
        "LaggedPairs": {"states": pairs.states, "places": pairs.places, "clock": pairs.clock},
        "LaggedPairs.both_ways": {},
        "LaggedPairs.in_memory": {},
        "LaggedPairs.read": {"index": np.arange(5)},
        "LaggedPairs.read_x": {"index": np.arange(5)},
        "LaggedPairs.select": {"index": np.arange(5)},
        "LaggedPairs.spread": {"n_most": 128},
        "LaggedPairs.weighted_batch": {"index": np.arange(5)},
        "LaggedPairs.with_states": {"x": pairs.x, "x_next": pairs.x_next},
        "LaggedPairs.weighted": {"weights": np.arange(1.0, 1 + len(pairs))},
        "Moments": {"block_sums": moments.block_sums, "block_counts": moments.block_counts, "clock": moments.clock,
                    "orientation_sums": moments.orientation_sums, "shifts": moments.shifts},
        "Moments.about": {"shifts": moments.shifts},
        "Moments.between": {"left": np.eye(3), "right": np.eye(3)},
        "Moments.joined": {"blocks": np.arange(moments.n_blocks) > 3},
        "Moments.merged": {"labels": np.arange(moments.n_blocks) // 2},
        "Moments.phases": {"coefficients": np.eye(3)},
        "Moments.reweighted": {"weights": np.ones((2, moments.n_blocks))},
        "Moments.selected": {"blocks": np.arange(4)},
        "Moments.transformed": {"A_f": np.eye(3), "A_g": np.eye(3)},
        "NeuralSVD.fit_many": {"matrices": [H, H]},
        "NeuralSVD.trim": {"n": 1},
        "NeuralSVD.transform_columns": {"features": H.T[:, :3]},
        "NeuralSVD.transform_rows": {"features": H[:, :3]},
        "MLP.forward": {"x": batch}, "CNN.forward": {"x": torch.randn(2, 8, 8)},
        "PeriodicEmbedding.forward": {"x": batch},
        "Split": {"is_training": split.is_training, "is_held_out": split.is_held_out, "recipe": split.recipe,
                  "held_out": split.held_out},
        "KoopmanAnalysis.report": {"path": folder / "report.html"},
        "KoopmanLoRA.report": {"path": folder / "estimator.html"},
        "Split.given": {"held_out": split.held_out, "training": split.training},
        "agreement_of_fits": {"functions": [phi, psi]},
        "captured_share": {"f": reference.left(reference.points), "g": reference.right(reference.points)},
        "chapman_kolmogorov": {"moments_by_lag": chain_moments},
        "compare_singular_values": {"held_out": moments},
        "compare_subspaces": {"a": phi, "b": psi, "weights": np.ones(60)},
        "coarse_coordinates": {"spectrum": estimator.spectrum_},
        "cross_validate": {"n_folds": 2},
        "cut_trajectory": {"n_parts": 2},
        "Field": {"data": grid},
        "Field.fields": {"values": np.ones((2, 3))}, "Field.maps": {"values": np.ones((2, 3))},
        "Field.series": {"functions": np.asarray},
        "eigen_analysis": {"n_modes": 3},
        "eigenpair_residuals": {"held_out": moments},
        "equilibrium_weights": {"moments": chain_moments[0]},
        "evaluate_on_grid": {"function": line_functions, "axes": {"x": np.linspace(-1, 1, 9)}},
        "estimate_moments_on_dask": {"part_size": 100},
        "export_mode": {"path": folder / "modes.ptc", "modes": [2, 3], "functions": "left"},
        "KoopmanAnalysis.export_mode": {"path": folder / "modes.ptc", "modes": [2, 3], "functions": "left"},
        "KoopmanLoRA.export_mode": {"path": folder / "modes.ptc", "modes": [2, 3], "functions": "left"},
        "FittedModes": {"modes": [2, 3], "functions": "left"}, "FittedModes.fit": {"X": X[0]},
        "FittedModes.transform": {"X": X[0]},
        "fit": {"pairs": split},
        "forecast_error": {"train": pairs, "test": X},
        "importance_text": {"importance": importance},
        "input_importance": {"phi": columns, "psi": columns, "groups": {"both": [0, 1]}},
        "load_dataset": {"path": paths["result.nc"]},
        "load_model": {"path": paths["model.safetensors"]},
        "macroscopic_model": {"moments": chain_moments[0], "estimator": "galerkin"},
        "membership_map": {"functions": np.eye(3)},
        "memberships": {"coefficients": coefficients},
        "open_trajectories": {"path": paths["data.npy"]},
        "save_dataset": {"dataset": spectrum, "path": folder / "saved.nc"},
        "save_model": {"path": folder / "saved.safetensors"},
        "sparse_surrogate": {"values": phi, "x": psi, "names": ["a", "b", "c"]},
        "to_deeptime": {"model": macro},
        "transition_matrix": {"moments": chain_moments[0], "estimator": "galerkin"},
        "timescales_from_singular_values": {"reversible": True},
        "plots.plot_energy": {"selection": kl.select_n_modes(analysis.validation(), n_shifts=50)},
        "plots.plot_input_importance": {"importance": importance},
        "plots.plot_modes_above_noise": {"selection": kl.select_n_modes(analysis.validation(), n_shifts=50)},
        "plots.plot_number_of_states": {"suggestion": kl.number_of_states(moments, bootstrap=few)},
        "plots.plot_timescales": {"scan": scan},
        "plots.plot_forecast": {"band": band},
        "plots.plot_forecast_error": {"error": kl.forecast_error(moments, columns, pairs, X, 3)},
        "plots.plot_eigenfunctions": {"functions": line},
        "plots.plot_singular_functions": {"x": np.linspace(-1, 1, 60), "values": phi, "reference": psi},
        "plots.plot_network": {"model": macro, "positions": rng.normal(size=(3, 2))},
        "plots.plot_eigenvalues": {"intervals": kl.bootstrap_intervals(moments, bootstrap=few)},
        "plots.plot_chapman_kolmogorov": {"test": kl.chapman_kolmogorov(chain_moments, np.eye(3), bootstrap=few)},
        "plots.plot_coarse_map": {"memberships": abs(plane)},
        "plots.plot_memberships": {"memberships": xr.DataArray(np.full((9, 3), 1 / 3), dims=("time", "state"))},
        "plots.plot_history": {"history": analysis.fitted.history},
        "plots.plot_learned_svals": {"history": analysis.fitted.history, "spectrum": analysis.spectrum},
        "plots.plot_maps": {"maps": plane.transpose("mode", "y", "x")},
        "systems.ReferenceSpectrum": {f.name: getattr(reference, f.name) for f in dataclasses.fields(reference)},
        "systems.LinearGaussian": {"dt": 1.0}, "systems.NoisyLogisticMap": {"dt": 1.0},
        "systems.FiniteMarkovChain.state_indices": {"x": np.eye(3)},
        "systems.FiniteMarkovChain.spectrum": {"n_modes": 3}, "systems.NoisyLogisticMap.spectrum": {"n_modes": 3},
        "systems.Duffing.velocity": {"x": X[0][:10].T}, "systems.Lorenz63.velocity": {"x": np.ones((3, 4))},
        "flat_state": {"x": batch},
        "molecules.MoleculeFiles": {"paths": molecule.paths, "topology": TOPOLOGY},
        "molecules.MoleculeFiles.aligned_positions": {"atoms": "all"},
        "molecules.MoleculeFiles.distances": {"atoms": "all"},
        "molecules.MoleculeFiles.structures": {"frames": [[0, 1], [0, 0]]},
        "molecules.MoleculeFiles.write": {"frames": [[0, 1]], "path": folder / "chosen.pdb"},
        "molecules.frames_along_mode": {"values": phi[:, 1]},
        "molecules.frames_of_state": {"states": [0, 1, 1, 0], "state": 1},
        "molecules.transition_frames": {"states": [0, 1, 1, 0], "origin": 0},
        "datasets.card": {"name": "markov_chain"}, "datasets.folder": {"name": "markov_chain"},
        "datasets.load": {"name": "markov_chain"}, "datasets.reference": {"name": "markov_chain"},
        "systems.FourWellLangevin1D.potential": {"x": np.linspace(-1, 1, 5)[:, None]},
        "systems.MuellerBrown.potential": {"x": X[0][:10].clip(-2, 2)},
        "systems.NoisyLogisticMap.stationary_density": {"x": np.linspace(0.1, 0.9, 5)},
    }  # fmt: skip
    instances = {
        "Bootstrap": few, "CNN": kl.CNN(1, 3, (4,), 2, 8), "Clock": kl.Clock(2, 0.5, "ps"), "DPNetLoss": kl.DPNetLoss(),
        "Field": kl.Field(grid), "TrajectoryFolds": kl.TrajectoryFolds(2),
        "KoopmanAnalysis": analysis, "KoopmanLoRA": estimator, "KoopmanLoRAModel": model, "LaggedPairs": pairs,
        "MLP": kl.MLP(2, 3, (6,)), "FittedModes": kl.FittedModes(analysis),
        "Moments": moments, "NestedLoRALoss": kl.NestedLoRALoss(3), "NeuralSVD": svd,
        "PeriodicEmbedding": kl.PeriodicEmbedding(), "Split": split, "VAMPLoss": kl.VAMPLoss(),
        "molecules.MoleculeFiles": molecule, "systems.ReferenceSpectrum": reference, "systems.FiniteMarkovChain": chain,
        "systems.LinearGaussian": kl.systems.LinearGaussian(common["A"], common["B"]),
        "systems.OrnsteinUhlenbeck": kl.systems.OrnsteinUhlenbeck(common["drift"], common["diffusion"]),
        "systems.NoisyLogisticMap": kl.systems.NoisyLogisticMap(6), "systems.System": system,
    }  # fmt: skip
    instances["NeuralSVD.fit_many"] = kl.NeuralSVD(2, max_steps=5)
    wholes = {"KoopmanLoRA": Whole(fitted, kl.KoopmanLoRA), "NeuralSVD": Whole(decomposed, kl.NeuralSVD)}
    wholes["FittedModes"] = Whole(transformer, kl.FittedModes)
    return common, special, instances, wholes


# Not called: errors, the common parent of all systems, and what deterministic systems have not.
UNCALLED = {
    "Moments.combined",  # maps of sums between rooms, which no user is shown
    "Moments.mapped",
    "Moments.with_blocks",
    "NonFiniteLossError",
    "systems.NoReferenceSpectrumError",
    "systems.System",
    "systems.Duffing.spectrum",
    "systems.Lorenz63.spectrum",
}


def targets(folder: pathlib.Path) -> dict[str, Target]:
    """Every public callable with a valid call, by name."""
    common, special, instances, wholes = arguments_by_name(folder)
    found = {}
    for name, value in public_callables().items():
        if name in UNCALLED:
            continue
        owner = wholes.get(name, value)
        if owner is None:
            cls = name.rpartition(".")[0]
            owner = instances.get(name, instances.get(cls)) or public_callables()[cls]()
        asked = owner.signature_of if name in wholes else _bound(name, owner)
        found[name] = Target(name, owner, _arguments(asked, special.get(name, {}), common))
    return found


def _arguments(asked, special, common):
    """A valid argument for every parameter: its own, the one of its name, or its default."""
    made = {}
    for name, parameter in inspect.signature(asked).parameters.items():
        if name in special or (name in common and parameter.default in (inspect.Parameter.empty, None)):
            made[name] = special.get(name, common.get(name))
        elif parameter.default is not inspect.Parameter.empty:
            made[name] = parameter.default
        # a parameter without any is missing here, and the valid call is an offence
    return made
