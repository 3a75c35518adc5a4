# %% [markdown]
# # Larger than memory, killed half way, on several processes
#
# Long simulations do not fit in memory, long fits are killed by queues, and big machines have several processors. We
# write more frames than we are willing to hold, fit from disk, kill a fit and go on, and do the same with two
# processes.
#
# Runs in some three minutes on two cores; it needs 600 MB of disk for a while. Needs the extra `scale` (zarr).
# %%
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
import zarr
from scipy.signal import lfilter

import koopman_lora as kl

QUICK = "TUTORIALS_QUICK" in os.environ  # set by the tests: fewer frames, no other processes
N_FRAMES, CHUNK = (20_000, 5_000) if QUICK else (6_000_000, 50_000)
folder = pathlib.Path(tempfile.mkdtemp())
# %% [markdown]
# ## Writing
# Twelve independent processes x' = a x + noise, mixed by a rotation, so that nothing can be read off the coordinates. A
# chunk at a time: all frames are never in memory. `state` is the name that is looked for; `dt` and the unit go with it.
# %%
a = np.concatenate([[0.9, 0.85], np.linspace(0.6, 0.1, 10)])
rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(12, 12)))[0]
rng = np.random.default_rng(0)
store = folder / "frames.zarr"
group = zarr.open_group(str(store), mode="w")
frames = group.create_array(
    "state", shape=(N_FRAMES, 12), chunks=(CHUNK, 12), dtype="f8", dimension_names=["time", "coordinate"]
)
frames.attrs.update({"dt": 0.5, "time_unit": "ns", "units": "1"})
last = rng.normal(size=12)
for start in range(0, N_FRAMES, CHUNK):
    kicks = rng.normal(size=(CHUNK, 12)) * np.sqrt(1 - a**2)
    part = np.stack([lfilter([1], [1, -a[j]], kicks[:, j], zi=[a[j] * last[j]])[0] for j in range(12)], axis=1)
    last = part[-1]
    frames[start : start + CHUNK] = part @ rotation.T
print(f"{N_FRAMES:,} frames, {N_FRAMES * 12 * 8 / 1e6:.0f} MB in chunks of {CHUNK * 12 * 8 / 1e6:.1f} MB")
# %% [markdown]
# ## Fitting from disk
# `xr.open_zarr` reads labels only. `fit` then reads chunks, a few at a time, in an order that is random enough for the
# training; moments of all pairs are summed chunk by chunk. Nothing else changes. (Zarr, NetCDF, memory-mapped `.npy`
# and lists of files go the same way; `kl.open_trajectories(path)` opens any of them.)
# %%
data = xr.open_zarr(store, consolidated=False).state
print(kl.lagged_pairs(data, lag=1))


def peak():
    """Most memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


settings = {"n_modes": 3, "hidden_dims": (32, 32), "seed": 0} | ({"n_epochs": 2} if QUICK else {})
if not QUICK:
    kl.KoopmanLoRA(**settings).fit(frames[:2_000])  # loads torch and all code, so that they do not count below
before, begun = peak(), time.perf_counter()
estimator = kl.KoopmanLoRA(**settings).fit(data)
print(
    f"{time.perf_counter() - begun:.0f} s; memory grew by {peak() - before:.0f} MB, data are {data.nbytes / 1e6:.0f} MB"
)
assert QUICK or peak() - before < data.nbytes / 1e6
# %%
exact = kl.systems.LinearGaussian(rotation @ np.diag(a) @ rotation.T, rotation @ np.diag(np.sqrt(1 - a**2)), dt=0.5)
truth = exact.spectrum(lag=1, n_modes=3)
bounds = estimator.intervals(kl.Bootstrap(200)).canonical_singular_values_interval.values
values = estimator.spectrum_.canonical_singular_values.values
for mode in range(3):
    print(f"mode {mode + 1}: {values[mode]:.4f} ({bounds[0, mode]:.4f} to {bounds[1, mode]:.4f})", end=" ")
    print(f"exact {truth.singular_values[mode]:.4f}")
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.errorbar(
    range(1, 4),
    values,
    abs(bounds - values),
    fmt="o",
    color="#0072B2",
    capsize=4,
    label="from disk; 95 % intervals\nare within the marks",
)
ax.plot(range(1, 4), truth.singular_values, "_", color="black", ms=22, label="exact")
ax.set(xticks=range(1, 4), xlabel="mode (1 is the constant)", ylabel="singular value", title="Fit of a store on disk")
legend = ax.legend(frameon=False)
assert np.max(np.abs(values - truth.singular_values)) < 0.03
# %% [markdown]
# Most of the memory that it took is buffers, in which frames of distant places are mixed; their size does not grow with
# the file.
#
# ## Killed, and resumed
# With `checkpoint=` the training keeps its state on disk, every minute or as often as you say. On the command line the
# same is `--checkpoint`, and `--resume` goes on. We start a fit of a smaller file, kill it without mercy (SIGKILL, as a
# queue does) as soon as two states are there, start it again, and compare with a fit that nobody killed.
# %%
small = folder / "small.npy"
np.save(small, frames[:20_000])


def command(out, *more, n_processes=1):
    """Fit on the command line, as a list for subprocess."""
    start = ["-m", "koopman_lora"]
    if n_processes > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", *start]
    fit = ["fit", str(small), "--n-modes", "3", "--n-epochs", "15", "--hidden-dims", "32", "32", "--quiet"]
    return [sys.executable, *start, *fit, "--out", str(folder / out), *more]


def run(*arguments, **options):
    """A command that has to succeed."""
    done = subprocess.run(command(*arguments, **options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if not QUICK:
    checkpoint = ["--checkpoint", str(folder / "kept"), "--checkpoint-every", "0"]
    killed = subprocess.Popen(command("killed", *checkpoint), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "kept" / "previous.safetensors").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    print("killed, exit status", killed.wait(), "- left behind:", *sorted(p.name for p in folder.glob("kept/*")))
    run("killed", *checkpoint, "--resume")
    run("whole")
    resumed, whole = (kl.open_analysis(folder / name).spectrum for name in ("killed", "whole"))
    same = np.array_equal(resumed.canonical_singular_values, whole.canonical_singular_values)
    print("singular values of the resumed fit:", resumed.canonical_singular_values.values)
    print("the same to the last bit as those of the fit that nobody killed:", same)
    assert same
# %% [markdown]
# In Python it is `KoopmanLoRA(checkpoint="kept").fit(data, resume=True)`. A script may always say `resume=True`:
# without a checkpoint it starts.
#
# ## Several processes
# ```
# torchrun --nproc-per-node 2 -m koopman_lora fit frames.zarr --n-modes 3 --out runs/frames
# srun python -m koopman_lora fit frames.zarr --n-modes 3 --out runs/frames
# ```
# Each process reads its part of every batch and sums its part of the moments; what travels are sums of size k x k. Only
# the first one writes.
# %%
if not QUICK:
    run("pair", n_processes=2)
    pair = kl.open_analysis(folder / "pair").spectrum.canonical_singular_values.values
    difference = np.abs(pair - whole.canonical_singular_values.values).max()
    print(f"largest difference of a singular value between two processes and one: {difference:.0e}")
    assert difference < 1e-3
# %% [markdown]
# For these small batches two processes are not faster, and `benchmarks/processes.py` says when they are: large batches
# and wide networks. Moments alone are also summed by a Dask cluster, `kl.estimate_moments_on_dask(f, g, pairs)`.
