# %% [markdown]
# # Alanine dipeptide: from files to structures
#
# Twelve nanoseconds of molecular dynamics lie in trajectory files. What is the slowest thing that the molecule does,
# how long does it take, and what does it look like? From files to coordinates, to modes, to states, and back to
# structures.
#
# Runs in about half a minute on one core. Needs the extra `md` (mdtraj); deeptime for the comparison.
# %%
import os
import pathlib
import tempfile

import matplotlib.pyplot as plt
import mdtraj
import numpy as np

import koopman_lora as kl

QUICK = "TUTORIALS_QUICK" in os.environ  # set by the tests: shorter training, fewer resamples
SHORT = {"n_epochs": 3} if QUICK else {}
BOOTSTRAP = kl.Bootstrap(100 if QUICK else 1000)
LAG = 10  # frames of 0.5 ps
# %% [markdown]
# ## The files
# You have your own, as XTC or whatever mdtraj reads. Here they are made of the data set that is shipped: twelve runs of
# 1 ns at 500 K in implicit solvent, started by turns on either side of the barrier in phi.
# %%
scratch = tempfile.TemporaryDirectory()  # goes with this session; write your own where you want them
folder = pathlib.Path(scratch.name)
topology = kl.datasets.folder("alanine_dipeptide") / "topology.pdb"
shipped = kl.datasets.load("alanine_dipeptide", "positions")
for i, run in enumerate(shipped):
    mdtraj.Trajectory(run.values, mdtraj.load_topology(str(topology)), time=run.time.values).save(
        str(folder / f"run{i:02d}.xtc")
    )
files = kl.molecules.MoleculeFiles(sorted(folder.glob("*.xtc")), topology)
print(files)
# %% [markdown]
# ## Coordinates
# Angles of the backbone. `torsions` gives sine and cosine of each, so that nothing jumps at 180 degrees.
# %%
angles = files.torsions(["phi", "psi"])
print(f"{len(angles)} trajectories, each of {angles[0].sizes['time']} frames:", *angles[0].coordinate.values, sep="  ")
print(kl.health_text(kl.data_health(angles, lag=LAG)))
# %% [markdown]
# ## The slowest process
# One fit, at a lag of 5 ps. By the scan below the slowest timescale is on its plateau from half a picosecond on.
# %%
estimator = kl.KoopmanLoRA(n_modes=4, lag=LAG, seed=0, **SHORT).fit(angles)
print(estimator.summary(BOOTSTRAP))
# %%
stored = kl.datasets.load("alanine_dipeptide")
phi, psi = stored.values[..., 0].ravel(), stored.values[..., 1].ravel()
slow = [estimator.singular_functions(part)[:, 1] for part in angles]
correlation = abs(np.corrcoef(np.concatenate(slow), np.sign(phi))[0, 1])
lower, upper = estimator.intervals(BOOTSTRAP).timescales_interval.sel(mode=2).values
timescale = float(estimator.spectrum_.timescales.sel(mode=2))
print(f"correlation of mode 2 with the sign of phi: {correlation:.3f}")
print(f"its timescale: {timescale:.0f} ps ({lower:.0f} to {upper:.0f})")
assert correlation > 0.95
# %% [markdown]
# The slowest process is the change of sign of phi: the correlation is 0.997. Nobody told the fit. Ramachandran's plot,
# coloured by mode 2, shows two flat regions with a sharp border. Mode 3 is the next process, in psi, where phi < 0.
# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for ax, mode in zip(axes, (2, 3), strict=True):
    values = np.concatenate([estimator.singular_functions(part)[:, mode - 1] for part in angles])
    limit = np.quantile(abs(values), 0.99)
    points = ax.scatter(phi, psi, c=values, s=2, cmap="PuOr_r", vmin=-limit, vmax=limit, rasterized=True)
    fig.colorbar(points, ax=ax, label="singular function (unit norm)")
    ax.set(xlabel="phi (degrees)", ylabel="psi (degrees)", title=f"Mode {mode}", xlim=(-180, 180), ylim=(-180, 180))
    ax.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90), aspect="equal")
# %% [markdown]
# ## How long does it take?
# Against the lag, with intervals. A Markov model (deeptime, 60 clusters of the same angles, lag 5 ps) says 67 ps, 95 %
# of its posterior between 60 and 78 ps (`benchmarks/alanine.py` prints it).
# %%
scan = estimator.scan_lags(angles, [1, 10, 40] if QUICK else [1, 2, 5, 10, 20, 40], bootstrap=BOOTSTRAP)
print("lag:", scan.answer)
ax = kl.plots.plot_timescales(scan)
ax.axhspan(60, 78, color="black", alpha=0.25, lw=0, label="Markov model, mode 2")
ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
assert lower < 78
assert upper > 60
# %% [markdown]
# The two agree: the intervals overlap. Ours reaches from 47 to 104 ps, and for a reason that no method removes. The
# barrier was crossed 31 times in all runs together, and a number of events known to be 31 is known to about a fifth.
#
# ## From states to structures
# Two states, as the slow mode says. Twenty frames of each, spread over the data, go into PDB files for any viewer, and
# so do those of a crossing. (`frames_of_state` of memberships would take the *surest* frames: the extremes of a
# function that is nearly flat, rare structures and not typical ones.)
# %%
functions = [estimator.singular_functions(part) for part in angles]
coefficients = kl.membership_coefficients(np.concatenate(functions), n_states=2)
memberships = [kl.memberships(part, coefficients) for part in functions]
states = [part.argmax(axis=1) for part in memberships]
sines = [np.sin(np.radians(phi[np.concatenate(states) == state])).mean() for state in range(2)]
right = int(np.argmax(sines))  # the state at phi > 0
print(f"share of the frames in the state at phi > 0: {np.mean(np.concatenate(states) == right):.3f}")
written = [files.write(kl.molecules.frames_of_state(states, i, n=20), folder / f"state{i}.pdb") for i in range(2)]
crossings = [kl.molecules.transition_frames(memberships, *way) for way in ((0, 1), (1, 0))]
print("transitions there and back:", [len(one_way) for one_way in crossings])
path = max(crossings[0], key=len)
written.append(files.write(path, folder / "crossing.pdb"))
for file in written:
    print(f"{file.name}: {mdtraj.load(str(file)).n_frames} structures")
# %% [markdown]
# Read back and laid on top of each other at the central carbon: ten structures of each state, with the mean of phi (on
# the circle) and its circular deviation.
# %%
colours = {"C": "black", "N": "#0072B2", "O": "#D55E00"}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), subplot_kw={"projection": "3d"}, layout="constrained")
reference = mdtraj.load(str(written[0]))
core = reference.topology.select("name N or name CA or name CB")
for state, ax in enumerate(axes):
    frames = mdtraj.load(str(written[state])).superpose(reference, 0, atom_indices=core)
    bonds = mdtraj.compute_neighborlist(frames, 0.17, frame=0)
    mean = np.exp(1j * mdtraj.compute_phi(frames)[1]).mean()
    middle, spread = np.degrees(np.angle(mean)), np.degrees(np.sqrt(-2 * np.log(abs(mean))))
    assert (middle > 0) == (state == right)
    print(f"state {state}: phi {middle:.0f} +- {spread:.0f} degrees")
    for xyz in frames.xyz[:10]:
        for atom, others in enumerate(bonds):
            for other in others[others > atom]:
                ax.plot(*xyz[[atom, other]].T, color="0.5", lw=0.8, alpha=0.6)
    for atom in frames.topology.atoms:
        ax.scatter(*frames.xyz[:10, atom.index].T, s=8, color=colours[atom.element.symbol])
    ax.set_title(f"state {state}: phi {middle:.0f} +- {spread:.0f} degrees")
    ax.set(xlabel="x (nm)", ylabel="y (nm)", zlabel="z (nm)", box_aspect=np.ptp(frames.xyz, axis=(0, 1)))
    ax.set(xticks=[-0.2, 0, 0.2], yticks=[-0.2, 0, 0.2])
handles = [plt.Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in colours.items()]
legend = fig.legend(handles=handles, loc="outside right center", frameon=False, title="element")
# %% [markdown]
# ## Should you believe it?
# The process, yes: it is found from the angles and, as `benchmarks/alanine.py` shows, from distances between atoms
# alone, in ten of ten seeds. The timescale, within its interval. The populations less: half of the runs were *started*
# at phi > 0, and 1 ns is only some fifteen timescales; the share of frames still remembers the starts. And the
# simulation was done at 500 K so that anything happens at all.
