# %% [markdown]
# # SVD of a complex channel matrix, and tracking it
#
# A base station with 64 antennas hears a phone with 32. The channel between them is a complex matrix H, and its leading
# singular vectors are the directions worth sending into. `kl.NeuralSVD` finds them with the same nested low-rank loss
# that learns Koopman operators. When does that pay, and when does it not?
#
# For **one** matrix of this size it does not: LAPACK needs a millisecond. It pays where the matrix changes slowly and
# each decomposition can begin with the last one. Runs in some ten seconds on one core.
# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np

import koopman_lora as kl

QUICK = "TUTORIALS_QUICK" in os.environ  # set by the tests: fewer moments of time
N_STATION, N_PHONE = 64, 32


def channel(t):
    """Five paths that drift together with time t, in [0, 1], and stay orthogonal; one fades while another grows."""
    strength = np.array([1.0, 0.8, 0.6 - 0.3 * t, 0.3 + 0.3 * t, 0.1])
    arrival = 2 * np.pi / N_STATION * np.array([3, 11, 19, 26, 34]) + 0.15 * t
    leaving = 2 * np.pi / N_PHONE * np.array([2, 7, 11, 15, 18]) - 0.2 * t
    steer_station = np.exp(1j * np.outer(np.arange(N_STATION), arrival)) / np.sqrt(N_STATION)
    steer_phone = np.exp(1j * np.outer(np.arange(N_PHONE), leaving)) / np.sqrt(N_PHONE)
    return steer_station * strength @ steer_phone.conj().T, strength


rng = np.random.default_rng(0)
noise = 0.001 * (rng.normal(size=(N_STATION, N_PHONE)) + 1j * rng.normal(size=(N_STATION, N_PHONE))) / np.sqrt(2)
H = channel(0.0)[0] + noise
# %% [markdown]
# ## One matrix
# Phases of singular vectors are free; `phase="sigma"` makes sigma real and positive and puts the phase into the right
# vectors. The checklist says whether the result is a singular value decomposition.
# %%
svd = kl.NeuralSVD(n_modes=5, phase="sigma", seed=0).fit(H)
exact = np.linalg.svd(H, compute_uv=False)
print("NeuralSVD", svd.singular_values_.round(4))
print("LAPACK   ", exact[:5].round(4))
print(f"largest relative error {np.max(abs(svd.singular_values_ / exact[:5] - 1)):.1e}")
print(svd.checklist())
assert svd.checklist().passed
assert np.allclose(svd.singular_values_, exact[:5], rtol=1e-6)
# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left = kl.plots.plot_matrix_svals(svd.result_, ax=axes[0])
right = kl.plots.plot_matrix_core(svd.result_, ax=axes[1])
# %% [markdown]
# ## A matrix that changes
# The same at many moments, each fit beginning with the last one (`partial_fit`). Modes are numbered by their singular
# values. Where two of these cross, the numbers change hands: a warning says so, and `previous_mode` says which mode
# continues which. With it every path is followed through the crossing.
# %%
times = np.linspace(0, 1, 11 if QUICK else 41)
tracker = kl.NeuralSVD(n_modes=5, phase="sigma", seed=0)
path_of_mode, before = np.arange(5), None
followed, exact, warm, turns, told = [], [], [], [], []
for t in times:
    H = channel(t)[0] + noise
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker.partial_fit(H)
    told += [f"t = {t:.3f}: {warning.message}" for warning in caught]
    if before is not None:
        previous = tracker.result_["previous_mode"].values - 1
        path_of_mode = path_of_mode[previous]
        turns.append(np.angle(np.sum(before[:, previous].conj() * tracker.U_, axis=0)))
        warm.append(tracker.n_steps_)
    before = tracker.U_
    followed.append(tracker.singular_values_[np.argsort(path_of_mode)])
    exact.append(np.linalg.svd(H, compute_uv=False)[:5])
error = np.max(abs(-np.sort(-np.array(followed), axis=1) / exact - 1))
print(f"largest relative error at all {len(times)} times: {error:.0e}")
print(f"largest turn of a phase from one time to the next: {np.degrees(np.max(np.abs(turns))):.1f} degrees")
print(*told, sep="\n")
assert error < 1e-5
assert np.max(np.abs(turns)) < 0.1
assert len(told) == 1
assert path_of_mode.tolist() == [0, 1, 3, 2, 4]
# %%
cold = [kl.NeuralSVD(n_modes=5, seed=0).fit(channel(t)[0] + noise).n_steps_ for t in times[:: 5 if QUICK else 10]]
print(f"steps of training, mean: {np.mean(warm):.0f} from the last result, {np.mean(cold):.0f} from scratch")
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
truth = np.array([channel(t)[1] for t in times])
for path, colour in enumerate(("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")):
    ax.plot(times, np.array(followed)[:, path], "o", color=colour, ms=4, label=f"path {path + 1}, followed")
    ax.plot(times, truth[:, path], color="black", lw=0.8, label="strength without noise" if path == 0 else None)
ax.set(xlabel="time", ylabel="singular value", ylim=(0, 1.1), title="Five paths; two of them cross")
ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
assert np.mean(warm) < np.mean(cold)
# %% [markdown]
# Every path is followed through the crossing, and its singular value is its strength. With noise ten times as strong no
# crossing is told, and rightly: two values that noise couples do not cross, they turn into one another.
#
# ## Should you use it?
# - One dense matrix that fits in memory: no; `numpy.linalg.svd`. A sparse one: `scipy.sparse.linalg.svds`.
# - A sequence with smooth phases and modes that keep their names: yes, that is what the above is for.
# - Rows and columns with features, so that unseen ones can be mapped; matrices that are only known by samples: yes,
#   with `parametrization="features"` and `sample=`. The result is then approximate, and says how far.
#
# What the recipe behind it gets wrong when it is taken literally, with numbers, stands in `docs/matrix_svd.md`.
