"""Every public function and method with hostile input, a short run; `python tests/fuzz.py` makes the long one."""

import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import valid_calls
import xarray as xr

import koopman_lora as kl
from koopman_lora.checks import checked
from koopman_lora.data.arrays import as_states
from koopman_lora.data.lazy_states import readable_states
from koopman_lora.losses import lora_loss
from koopman_lora.moment_names import DEFINITIONS

pytestmark = pytest.mark.any_processor

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_no_hostile_input_gives_an_undocumented_error_or_silent_nan():
    command = [sys.executable, HERE / "fuzz.py", "--calls", "500", "--seed", "7"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


@pytest.mark.slow
def test_every_public_callable_has_a_valid_call(tmp_path):
    """What is new is found by introspection, and misses an argument until `valid_calls.py` has one for it."""
    found = valid_calls.targets(tmp_path)
    public = set(valid_calls.public_callables())
    assert set(found) == public - valid_calls.UNCALLED
    assert {"forecast", "Moments.between", "plots.plot_network", "systems.Duffing.velocity"} <= set(found)
    for target in found.values():
        function, arguments = target.fresh()
        inspect.signature(function).bind(**arguments)


MOMENTS = kl.Moments({"M_f": np.ones((3, 1, 1)), "T_fg": np.ones((3, 1, 1)), "M_g": np.ones((3, 1, 1))}, np.ones(3))
TWO = kl.Moments({"M_f": np.ones((3, 2, 2)), "T_ff": np.ones((3, 2, 2)), "M_f1": np.ones((3, 2, 2))}, np.ones(3))
LARGE = kl.Moments({n: np.full((3, 1, 1), 1e200 if n[0] == "H" else 1.0) for n in DEFINITIONS}, np.ones(3))
SHIFTED = kl.estimate_moments(lambda x: x, lambda x: x, (torch.ones(2, 1), torch.ones(2, 1)))


def tiny(lag):
    return kl.Moments({n: np.full((3, 1, 1), 1e-300) for n in DEFINITIONS}, np.ones(3), kl.Clock(lag))


def forecast_error_of(test, is_empty=False):
    pairs = kl.lagged_pairs(np.arange(9.0) % 4, lag=1)
    moments = kl.estimate_moments(kl.flat_state, kl.flat_state, pairs, observables=kl.flat_state)
    train = pairs.select(np.arange(0)) if is_empty else pairs
    return kl.forecast_error(moments, kl.flat_state, train, test, 1)


SERIES = np.cos(np.arange(40.0))
QUICK, PAIRS, HEALTH = kl.KoopmanLoRA(2), kl.lagged_pairs(SERIES), kl.data_health(SERIES)
SVD = kl.NeuralSVD(n_modes=1, max_steps=2).fit(np.eye(2)).to_dataset()
ONES = torch.ones(3, 1)
NO_MODE = xr.Dataset({"svals": ("epoch", [1.0])}, {"epoch": [1]}, {"best_epoch": 1})
NO_EPOCH = xr.Dataset({"loss": ("epoch", [])}, {"epoch": []}, {"best_epoch": 1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl.forecast("moments", np.ones((1, 1)), 3), "moments must be Moments; got 'moments'"),
        (lambda: kl.koopman_spectrum(MOMENTS, threshold=np.nan), "threshold must be a finite number; got nan"),
        (lambda: kl.koopman_spectrum(MOMENTS, threshold=2), "threshold must be at least 0 and below 1; got 2"),
        (lambda: kl.koopman_spectrum(MOMENTS, [-1.0]), "svals must be at least 0"),
        (lambda: MOMENTS.transformed([[np.nan]], [[1]]), "A_f must be finite; 1 of 1 entries"),
        (lambda: MOMENTS.transformed([[1e200]], [[1]]), r"A_f must be below 1e\+150"),
        (lambda: MOMENTS.selected([7]), "blocks must be positions below 3"),
        (lambda: MOMENTS.between("M_x"), "name must be one of 'M_f'"),
        (lambda: kl.Moments({"M_f": np.full((3, 1, 1), np.nan)}, np.ones(3)), "block_sums.'M_f'. must be finite"),
        (lambda: kl.Moments({"M_f": np.ones((3, 1, 1))}, np.ones(2)), "one for each of block_counts"),
        (lambda: kl.vamp_scores(MOMENTS, "test"), "test must be Moments; got 'test'"),
        (lambda: kl.stationary_distribution(np.eye(2) * 1j), "P must be an array of real numbers"),
        (lambda: kl.stationary_distribution([["a"]]), "P must be an array of numbers"),
        (lambda: kl.committor(np.eye(2), 0, 0.5), "target must be an integer; got 0.5"),
        (lambda: kl.compare_subspaces(iter([1.0]), np.ones((2, 1))), "a must be an array of numbers"),
        (lambda: kl.compare_subspaces(np.ma.masked_all((2, 1)), np.ones((2, 1))), "a must not have masked entries"),
        (lambda: kl.KoopmanLoRAModel(2, 10**9), "n_modes must be between 1 and 10000000; got 1000000000"),
        (
            lambda: kl.KoopmanLoRAModel(2, 3, (10**6, 10**6)),
            "hidden_dims ask for a network of 2e.12 weights; 1e.09 is the",
        ),
        (lambda: kl.MLP(2, 3, (10**6, 10**6)), "hidden_dims ask for a network of 1e.12 weights"),
        (lambda: kl.CNN(1, 3, (10**6, 10**6)), "channels ask for a network of 9e.12 weights"),
        (
            lambda: kl.CNN(1, 3, hidden_dim=10**7),
            "grid, hidden_dim and n_features ask for a network of 5",
        ),
        (lambda: kl.Bootstrap(10**9).weights(64), "n_resamples=1000000000 of n_blocks=64 are too many"),
        (lambda: kl.forecast(MOMENTS, [[1.0]], 10**9), "steps must be at most 100000 numbers of lags"),
        (
            lambda: kl.cross_validate(kl.KoopmanLoRA(2), np.arange(9.0), 10**9),
            "n_folds must be at most the number of pairs",
        ),
        (lambda: kl.systems.NoisyRotation().spectrum(1, 10**9), "n_modes=1000000000 is more than the 10000 available"),
        (lambda: kl.systems.NoisyRotation().simulate(10**6, 10**6), r"n_trajectories \* n_steps must be at most"),
        (
            lambda: kl.systems.FiniteMarkovChain.with_blocks(10**5),
            r"n_blocks \* states_per_block must be at most 10000",
        ),
        (lambda: kl.MLP("two", 3), "input_dim must be an integer; got 'two'"),
        (lambda: kl.MLP(10**12, 3), "input_dim must be an integer of at most 2147483647"),
        (lambda: kl.plots.plot_spectrum(xr.Dataset()), "spectrum must be the result .* it lacks .*'mode'"),
        (lambda: kl.plots.plot_history(NO_EPOCH), "history must have entries; it has none along 'epoch'"),
        (lambda: kl.plots.plot_energy(xr.Dataset()), "selection must be the result of select_n_modes; it lacks 'mode'"),
        (lambda: MOMENTS.between("M_f", np.ones((2, 1))), r"left must have shape \(1, n\); got \(2, 1\)"),
        (lambda: MOMENTS.transformed([[1]], [[1], [1]]), r"A_g must have shape \(1, n\); got \(2, 1\)"),
        (lambda: MOMENTS.reweighted(np.ones((3, 2))), r"weights must have shape \(n, 3\); got \(3, 2\)"),
        (lambda: kl.Clock.from_attrs({"lag": 1}), "attrs must be those of a result, .* they lack dt, time_unit"),
        (lambda: kl.eigenpair_residuals(TWO, MOMENTS), "moments and held_out must be moments of the same features"),
        (
            lambda: kl.forecast(LARGE, [[1.0]], 9),
            "moments and observables give forecasts that overflow 1 lag",
        ),
        (lambda: kl.plots.plot_singular_functions([], [[1.0]]), "x must hold at least one state"),
        (lambda: kl.plots.plot_singular_functions([1.0], [1.0]), r"values must have shape \(1, n\); got \(1,\)"),
        (lambda: kl.plots.plot_singular_functions([1.0], [[1.0]], coordinate_names=[]), "coordinate_names must name 1"),
        (lambda: kl.membership_coefficients(np.eye(2) * 1e-300, 2), "functions must be of about unit norm; got values"),
        (lambda: SHIFTED.transformed(np.ones((1, 1, 1)), [[1]]), r"A_f must have shape \(1, n\); got \(1, 1, 1\)"),
        (lambda: kl.estimate_moments(len, len, [(torch.ones(()), torch.ones(()))]), "x and x_next must hold several"),
        (lambda: forecast_error_of(np.ones((9, 3))), r"test must hold states of shape \(1,\); got \(3,\)"),
        (lambda: kl.chapman_kolmogorov([tiny(1), tiny(2)]), "moments_by_lag must be of features of ordinary size"),
        (lambda: kl.plots.plot_coarse_map(xr.DataArray(np.ones((2, 0, 1)))), "memberships must have entries"),
        (lambda: kl.evaluate_on_grid(lambda x: None, {"x": [0.0]}), "function must be an array of numbers; got None"),
        (lambda: kl.koopman_spectrum(MOMENTS.reweighted(np.ones((2, 3)))), "moments must be moments of one estimate"),
        (lambda: kl.systems.Lorenz63().velocity(np.full((3, 1), np.inf)), "x must be finite"),
        (lambda: kl.save_model(kl.MLP(2, 3), "here"), "model must be a KoopmanLoRAModel; got"),
        (lambda: QUICK.fit(SERIES, sample_weight="a"), "sample_weight must be an array of numbers; got 'a'"),
        (lambda: QUICK.fit(SERIES, sample_weight=[1.0, 2.0]), r"sample_weight of trajectory 0 .* shape \(40,\)"),
        (
            lambda: QUICK.fit([SERIES], sample_weight=[1.0, 2.0]),
            "sample_weight must be given for each of 1 trajectories",
        ),
        (lambda: kl.KoopmanLoRA(refine="yes").fit(SERIES), "refine must be True or False; got 'yes'"),
        (lambda: kl.KoopmanLoRA(weight_decay=200).fit(SERIES), "weight_decay must be below 1 / learning_rate = 100"),
        (lambda: as_states(pd.DataFrame({"a": ["b"]}), (1,)), r"x must have columns of numbers; got a \("),
        (lambda: kl.open_trajectories(""), "path is an empty text; give trajectories in"),
        (
            lambda: kl.health_text(HEALTH.drop_vars("drift")),
            "health must be the result of data_health; it lacks 'drift'",
        ),
        (lambda: kl.health_text(HEALTH.rename(coordinate="c")), "health must be .* it lacks 'coordinate'"),
        (lambda: kl.matrix_checklist(SVD.drop_vars("error_eckart_young")), "result must be .* 'error_eckart_young'"),
        (lambda: kl.matrix_checklist(SVD.drop_attrs()), "result must be the result of NeuralSVD.* 'matrix_norm'"),
        (lambda: kl.plots.plot_learned_svals(NO_MODE), "history must be the result of fit; it lacks 'mode'"),
        (lambda: forecast_error_of(np.arange(9.0), is_empty=True), "train must hold pairs; it has none"),
        (
            lambda: kl.plots.plot_singular_functions([1.0], np.ones((1, 1, 1))),
            r"values must have shape \(1, n\); got \(1, 1, 1\)",
        ),
        (lambda: kl.sparse_surrogate(np.ones((60, 1)), np.ones((60, 0))), "x must have at least one column; got"),
        (lambda: kl.cut_trajectory(torch.eye(3).to_sparse(), 2), "x must be a dense tensor; use x.to_dense"),
        (lambda: kl.cut_trajectory(SERIES, 10**6), "n_parts=1000000 is more than the 40 frames of x"),
        (lambda: list(kl.TrajectoryFolds(2).split([SERIES, np.array(1.0)])), r"X must hold .*; X\[1\] is array\(1"),
        (lambda: PAIRS.with_states(torch.eye(3).to_sparse(), torch.eye(3)), "x must be a dense tensor; got"),
        (
            lambda: PAIRS.with_states(torch.empty(39, 1, device="meta"), PAIRS.x),
            "x and x_next must be .* on meta and .* on cpu",
        ),
        (lambda: kl.molecules.transition_frames([[[1.0], [1.0, 2.0]]], 0, 1), "states must be a rectangular array"),
        (lambda: kl.molecules.MoleculeFiles("", "a.pdb"), "paths is empty, or holds an empty text"),
        (
            lambda: lora_loss(ONES, ONES, None, pair_weights=ONES[:, 0].to_sparse()),
            "pair_weights must be a dense tensor",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize(
    ("name", "call"), [("x", lambda path: readable_states(path, (1,))), ("test", forecast_error_of)]
)
def test_a_file_that_is_not_there_is_told_by_the_argument(name, call):
    with pytest.raises(FileNotFoundError, match=f"{name} 'run.txt' does not exist; give trajectories in"):
        call("run.txt")


@checked
def an_example(values: np.ndarray, n: int = 1, names: "list[str] | None" = None, where: "NotImported" = None):  # noqa: F821
    return values, n, names, where


def test_arguments_arrive_as_annotated():
    values, n, names, where = an_example(np.ones(2, dtype=">f2"), np.int64(3), ("a",), 5)
    assert (values.dtype, values.dtype.isnative, type(n)) == (np.float64, True, int)
    assert (names, where) == (("a",), 5)
    with pytest.raises(TypeError, match=r"names\[1\] must be a text; got 2"):
        an_example([1.0], names=["a", 2])
    with pytest.raises(TypeError, match="missing a required argument: 'values'"):
        an_example()
