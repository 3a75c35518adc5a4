"""Results that the tests of several kinds of plots draw, made once, and ways to find in a picture what was drawn."""

import functools

import numpy as np

import koopman_lora as kl
from koopman_lora.accumulation import estimate_moments
from koopman_lora.eigenanalysis import evaluate_on_grid
from koopman_lora.prediction import forecast_band, forecast_error
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.markovianity import chapman_kolmogorov
from koopman_lora.states.metastable_sets import number_of_states


def line(ax, label):
    return next(item for item in ax.lines if label in str(item.get_label()))


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@functools.cache
def fitted():
    """A system, its trajectories and an estimator fitted to them."""
    system = kl.systems.NoisyRotation()
    trajectories = system.simulate(n_trajectories=2, n_steps=2000, seed=0)
    return system, trajectories, kl.KoopmanLoRA(n_modes=4, hidden_dims=(16,), n_epochs=4).fit(trajectories)


def identity(x):
    return x


def two_functions(x):
    return np.column_stack([np.ones(len(x)), x[:, 0], x[:, 0] ** 2])


LINE = evaluate_on_grid(two_functions, {"x": np.linspace(-1, 1, 11)}, unit="nm")
PLANE = evaluate_on_grid(two_functions, {"x": np.linspace(-1, 1, 11), "y": np.linspace(0, 1, 7)}, unit="nm")
HALVES = evaluate_on_grid(
    lambda x: np.column_stack([x[:, 0] > 0, x[:, 0] <= 0]).astype(float),
    {"x": np.linspace(-1, 1, 11), "y": np.linspace(0, 1, 7)},
)


@functools.cache
def chain_results():
    """What is made of a chain of three states: model, test, forecast band, forecast error, gaps."""
    chain = kl.systems.FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=1, coupling=0.2, seed=1)
    data = list(chain.simulate(4, 1000).values)
    pairs = [kl.lagged_pairs(data, lag, dt=0.5, time_unit="ns") for lag in (1, 2, 4)]
    named = {"observables": identity, "observable_names": ["a", "b", "c"]}
    moments = [estimate_moments(identity, identity, at_lag, **named) for at_lag in pairs]
    bootstrap = kl.Bootstrap(20)
    return {
        "model": macroscopic_model(moments[0], bootstrap=bootstrap),
        "test": chapman_kolmogorov(moments, np.eye(3), bootstrap=bootstrap),
        "band": forecast_band(moments[0], np.eye(3), 5, bootstrap=bootstrap),
        "error": forecast_error(moments[0], identity, pairs[0], chain.simulate(2, 200, seed=7), 3),
        "gaps": number_of_states(moments[0], bootstrap=bootstrap),
    }


@functools.cache
def decomposed():
    """A matrix and its decomposition."""
    H = np.random.default_rng(0).normal(size=(12, 9))
    return H, kl.NeuralSVD(n_modes=3).fit(H).to_dataset()
