# %% [markdown]
# # Coming from deeptime, kooplearn, PyDMD or PyEMMA
#
# What do you call here what you call there, and do the numbers agree? Of deeptime both sides run below, on the same
# frames of a particle in four wells, and agree to rounding; of the others there are tables of names.
#
# Three conventions differ, and explain most surprises:
#
# - **The constant function is mode 1**, with singular value 1, and counts: `dim=2` there is `n_modes=3` here, and
#   scores contain its 1.
# - **A lag travels with the pairs**: it is said once, and timescales come out in the unit of the data.
# - **Timescales are of eigenvalues.** deeptime's VAMP makes them of singular values, which is the same for reversible
#   processes only.
#
# Runs in some fifteen seconds on one core.
# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from deeptime.clustering import KMeans
from deeptime.decomposition import VAMP
from deeptime.markov import TransitionCountEstimator
from deeptime.markov.msm import MaximumLikelihoodMSM

import koopman_lora as kl

QUICK = "TUTORIALS_QUICK" in os.environ  # set by the tests: shorter training, fewer clusters and resamples
BOOTSTRAP, N_CLUSTERS = (kl.Bootstrap(20), 10) if QUICK else (kl.Bootstrap(200), 30)
LAG = 5
data = kl.datasets.load("four_well_2d")  # 8 trajectories of 2,500 frames, 0.1 ps apart
runs = list(data.values)
pairs = kl.lagged_pairs(data, LAG)  # or a list of arrays, with dt=0.1, time_unit="ps"
# %% [markdown]
# ## VAMP
# Any feature map gives moments, moments give a spectrum. Linear VAMP is the map x -> (1, x).
# %%
x, x_next = (np.concatenate([run[start:stop] for run in runs]) for start, stop in ((0, -LAG), (LAG, None)))
theirs = VAMP().fit_from_timeseries((x, x_next)).fetch_model()


def linear(x):
    return torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1)


moments = kl.estimate_moments(linear, linear, pairs)
ours = kl.koopman_spectrum(moments)
print("singular values, deeptime", theirs.singular_values)
print("                    here ", ours.canonical_singular_values.values)
print(f"VAMP-2, deeptime {theirs.score(2):.10f}, here {kl.vamp_scores(moments, moments).vamp_2:.10f}")
from_sigma = kl.timescales_from_singular_values(ours, reversible=True)
print("timescales in ps, deeptime               ", theirs.timescales(lagtime=LAG) * data.dt)
print("                  here, of singular values", from_sigma.values[1:])
print("                  here, of eigenvalues    ", ours.timescales.values[1:])
assert np.allclose(theirs.singular_values, ours.canonical_singular_values[1:], atol=1e-10)
assert np.isclose(theirs.score(2), kl.vamp_scores(moments, moments).vamp_2, atol=1e-10)
# %% [markdown]
# A score of the data that it was fitted to flatters, there as here. `estimator.scores()` is of held-out pairs.
#
# ## A Markov model
# One-hot features of cluster numbers are a Markov model, with the same matrix.
# %%
clusters = KMeans(N_CLUSTERS, fixed_seed=1).fit(np.concatenate(runs)).fetch_model()
counts = TransitionCountEstimator(LAG, "sliding").fit([clusters.transform(run) for run in runs]).fetch_model()
markov = MaximumLikelihoodMSM(reversible=False).fit(counts).fetch_model()


def one_hot(x):
    return torch.eye(N_CLUSTERS, dtype=torch.float64)[torch.as_tensor(clusters.transform(x.double().numpy())).long()]


states = kl.estimate_moments(one_hot, one_hot, pairs)
model = kl.macroscopic_model(states, bootstrap=None)
difference = np.abs(kl.transition_matrix(states) - markov.transition_matrix).max()
print(f"largest difference of a transition probability: {difference:.0e}")
print("timescales in ps, deeptime", markov.timescales(k=3) * data.dt)
print("                  here    ", model.timescales.values[1:4])
assert difference < 1e-12
assert np.allclose(markov.timescales(k=3) * data.dt, model.timescales[1:4])
# %% [markdown]
# The maximum-likelihood model with detailed balance (`reversible=True` there) is another estimate than the one here,
# which takes every pair in both directions (`pairs.both_ways()`); for data in equilibrium they agree within errors.
# %%
reversible = MaximumLikelihoodMSM(reversible=True).fit(counts).fetch_model()
both_ways = kl.macroscopic_model(kl.estimate_moments(one_hot, one_hot, pairs.both_ways()), bootstrap=BOOTSTRAP)
print(f"slowest timescale: {reversible.timescales(k=1)[0] * data.dt:.2f} ps there,", end=" ")
lower, upper = both_ways.timescales_interval.values[:, 1]
print(f"{float(both_ways.timescales[1]):.2f} ps here ({lower:.2f} to {upper:.2f})")
assert lower < reversible.timescales(k=1)[0] * data.dt < upper
# %% [markdown]
# ## VAMPNet, and the way back
# `KoopmanLoRA` stands where `VAMPNet` does. Its small model goes back to deeptime, for all that is built there on
# Markov models: transition paths, spectroscopic observables, hidden Markov models.
# %%
estimator = kl.KoopmanLoRA(n_modes=5, lag=LAG, seed=0, **({"n_epochs": 3} if QUICK else {})).fit(data)
small = estimator.coarse_grain(n_states=4, bootstrap=BOOTSTRAP)
back = kl.to_deeptime(small)
print(type(back).__name__, "with timescales in ps", back.timescales() * data.dt)
assert np.allclose(back.timescales() * data.dt, small.timescales[1:])
exact = kl.datasets.reference("four_well_2d").timescales.values[1:4]
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ways = {
    "deeptime VAMP": (theirs.timescales(lagtime=LAG) * data.dt, "s", "#E69F00"),
    "deeptime Markov model": (markov.timescales(k=3) * data.dt, "^", "#009E73"),
    "here, Markov model": (model.timescales.values[1:4], "v", "#56B4E9"),
    "here, learned": (estimator.spectrum_.timescales.values[1:4], "o", "#0072B2"),
}
for i, (name, (values, marker, colour)) in enumerate(ways.items()):
    ax.plot(np.arange(len(values)) + 2 + 0.1 * i, values, marker, color=colour, label=name)
bounds = estimator.intervals(BOOTSTRAP).timescales_interval.values[:, 1:4]
ax.vlines(np.arange(3) + 2.3, *bounds, color="#0072B2", label="95 % interval")
ax.hlines(exact, np.arange(3) + 1.85, np.arange(3) + 2.45, color="black", lw=1, label="exact")
ax.set(xticks=[2, 3, 4], xlabel="mode (1 is the constant)", ylabel="timescale (ps)", yscale="log", ylim=(1, 8))
ax.minorticks_off()
ax.set(yticks=[1, 2, 5], yticklabels=["1", "2", "5"], title="The same data, four ways")
legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
# %% [markdown]
# Linear VAMP has two coordinates and therefore two modes, both too fast: these functions are not linear.
#
# ## DMD
# Dynamic mode decomposition is the same with the state itself as features, and no constant. Beware: PyDMD takes
# snapshots as *columns*, here time is the *first* dimension of a trajectory.
# %%
matrix = np.linalg.lstsq(x, x_next, rcond=None)[0].T  # x' = matrix x, what exact DMD diagonalises
state = kl.estimate_moments(kl.flat_state, kl.flat_state, pairs)
dmd = kl.eigen_analysis(state, method="edmd")
print("eigenvalues by least squares", np.sort(np.linalg.eigvals(matrix))[::-1])
print("                       here ", dmd.eigenvalues.values.real)
assert np.allclose(np.sort(np.linalg.eigvals(matrix))[::-1], dmd.eigenvalues, atol=1e-8)
# %% [markdown]
# ## Names
#
# | deeptime | here |
# |---|---|
# | `TrajectoriesDataset.from_numpy(lag, data)` | `kl.lagged_pairs(data, lag)` |
# | `VAMP(lagtime, dim=k)` | `kl.koopman_spectrum(kl.estimate_moments(f, g, pairs))` |
# | `TICA(lagtime, dim=k)` | the same of `pairs.both_ways()` |
# | `VAMPNet(lobe, lobe_timelagged)` | `kl.KoopmanLoRA(encoder_f=, encoder_g=)`, `loss=kl.VAMPLoss()` for its loss |
# | `CovarianceModel` | `kl.Moments` |
# | `model.singular_values`, `.transform(x)` | `estimator.spectrum_`, `estimator.transform(x)` |
# | `vamp_score_cv` | `estimator.scores()`, `kl.cross_validate` |
# | `implied_timescales`, `plot_implied_timescales` | `estimator.scan_lags(data, lags)`, `kl.plots.plot_timescales` |
# | `MaximumLikelihoodMSM`, `BayesianMSM` | `kl.macroscopic_model(moments, bootstrap=kl.Bootstrap())` |
# | `model.pcca(m)` | `estimator.coarse_grain(m)`, `estimator.membership_map(m)` |
# | `ck_test` | `kl.chapman_kolmogorov` |
#
# | PyEMMA (no longer developed; deeptime goes on) | here |
# |---|---|
# | `coordinates.featurizer`, `coordinates.load(files)` | `kl.molecules.MoleculeFiles(files, topology).torsions()` |
# | `coordinates.tica(data, lag)` | `kl.KoopmanLoRA(lag=lag, reversible=True).fit(data)` |
# | `coordinates.vamp(data, lag)` | `kl.KoopmanLoRA(lag=lag).fit(data)` |
# | `msm.its(dtrajs, lags, errors="bayes")` | `estimator.scan_lags(data, lags)` |
# | `msm.estimate_markov_model(dtrajs, lag)` | `kl.macroscopic_model` of one-hot moments, as above |
# | `msm.mfpt`, `msm.committor_forward` | `kl.mean_first_passage_times`, `kl.committor` |
# | `coordinates.save_traj(source, frames, file)` | `files.write(frames, file)` |
#
# | kooplearn | here |
# |---|---|
# | `KernelRidge`, `NystroemKernelRidge` | none: features are learned here, or fixed ones of yours |
# | `torch.nn.SpectralContrastiveLoss` | `kl.NestedLoRALoss(n_modes)`: the same, nested, so that modes are in order |
# | `torch.nn.VampLoss` | `kl.VAMPLoss` |
# | `model.eig()` | `estimator.eigen_analysis()` |
# | `model.predict(x)` | `estimator.forecast(x, steps)` |
#
# | PyDMD | here |
# |---|---|
# | `DMD(svd_rank=r).fit(X)`, X (space, time) | moments of the state as above, with frames (time, space) |
# | `dmd.eigs`, `dmd.modes` | `eigenvalues`, `koopman_modes` of `kl.koopman_modes(moments)` |
# | `dmd.frequency` | `frequencies` of `kl.eigen_analysis(moments)`, in cycles per unit of time |
# | `hankel_preprocessing(dmd, d)` | `kl.Field(data, delays=d - 1)` of a labelled grid |
# | `dmd.forecast`, `dmd.reconstructed_data` | `kl.forecast(moments, features, steps)` |
# | `BOPDMD` (bagging, for uncertainty) | `bootstrap=kl.Bootstrap()` wherever there is an interval |
#
# Stay where you are if you need a full Bayesian posterior of a Markov model, hidden Markov models, kernel methods with
# their theory, or DMD with control. Come here for learned functions with intervals and a verdict on each.
