"""Data larger than memory: peak memory, seconds and pairs per second of fits from disk and from memory.

    python benchmarks/scale.py                       # 10^7 frames x 16, layouts of chunks, many short trajectories
    python benchmarks/scale.py --quick               # 10^5.7 frames, a minute
    python benchmarks/scale.py --only fits --frames 10000000 --write docs/scale.json
    python benchmarks/scale.py --page                # docs/scale.md from docs/scale.json

Each case runs in a process of its own, with one thread of torch and the reading thread beside it; peak memory is what
the kernel says that it was (VmHWM). The data are made first, in a temporary folder (`--folder` keeps them): independent
processes x' = a x + noise, mixed by a rotation, of which the singular values are known.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

N_FRAMES, N_COORDINATES, CHUNK = 10_000_000, 16, 32_768
N_MODES = 8
ROOT = pathlib.Path(__file__).parents[1]
RECORD, PAGE = ROOT / "docs" / "scale.json", ROOT / "docs" / "scale.md"
# rows of a chunk and numbers of a state that lie in it
LAYOUTS = {"4 MB": (32_768, 16), "1 MB": (8_192, 16), "128 kB": (1_024, 16), "16 kB": (128, 16), "2 kB": (16, 16),
           "one coordinate each": (32_768, 1), "64 MB": (524_288, 16)}  # fmt: skip
# trajectories of 301 frames of 1,000 coordinates
MANY, LENGTH, WIDE, MANY_MODES = (300, 1_000, 3_000, 10_000), 301, 1_000, 128


def rates(n: int) -> np.ndarray:
    return np.linspace(0.97, 0.4, n)


def rotation(n: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(7).normal(size=(n, n)))[0]


def frames(n: int, d: int, seed: int = 0, dtype: str = "f8") -> Iterator[np.ndarray]:
    """Frames (CHUNK, d) of one trajectory, a chunk at a time."""
    from scipy.signal import lfilter

    rng, a, Q = np.random.default_rng(seed), rates(d), rotation(d)
    state = rng.normal(size=d)
    for start in range(0, n, CHUNK):
        noise = rng.normal(size=(min(CHUNK, n - start), d)) * np.sqrt(1 - a**2)
        made = np.stack([lfilter([1.0], [1.0, -a[j]], noise[:, j], zi=[a[j] * state[j]])[0] for j in range(d)], axis=1)
        state = made[-1]
        yield (made @ Q).astype(dtype)


def make(folder: pathlib.Path, n: int) -> None:
    import zarr

    store = zarr.create_array(
        store=str(folder / "x.zarr"), shape=(n, N_COORDINATES), chunks=(CHUNK, N_COORDINATES), dtype="f8"
    )
    mapped = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype="f8", shape=(n, N_COORDINATES))
    at = 0
    for part in frames(n, N_COORDINATES):
        store[at : at + len(part)] = mapped[at : at + len(part)] = part
        at += len(part)
    mapped.flush()


def peak() -> float:
    """GB of memory at most so far."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e6
    raise RuntimeError("the kernel does not say VmHWM")


def fit_case(folder: pathlib.Path, kind: str) -> dict[str, object]:
    """A fit with default settings to the data in one form."""
    import zarr

    import koopman_lora as kl

    data = {
        "zarr": lambda: zarr.open_array(str(folder / "x.zarr"), mode="r"),
        "npy": lambda: np.load(folder / "x.npy", mmap_mode="r"),
        "memory": lambda: np.load(folder / "x.npy"),
    }[kind]()
    estimator = kl.KoopmanLoRA(n_modes=N_MODES)
    start = time.perf_counter()
    estimator.fit(data)
    took = time.perf_counter() - start
    history = estimator.training_.history
    n_drawn = history.sizes["epoch"] * history.attrs["steps_per_epoch"] * history.attrs["batch_size"]
    fitted = peak()
    estimator.summary()
    return {
        "n_frames": data.shape[0],
        "data_gb": data.shape[0] * N_COORDINATES * 8 / 1e9,
        "seconds": took,
        "training_seconds": estimator.training_.seconds,
        "pairs_per_second": n_drawn / estimator.training_.seconds,
        "n_drawn": n_drawn,
        "peak_gb": fitted,
        "peak_with_summary_gb": peak(),
        "sigma": estimator.spectrum_["canonical_singular_values"].values.tolist(),
    }


def pace_case(folder: pathlib.Path, rounds: int = 2) -> dict[str, object]:
    """Pairs per second of the same training from memory and from disk, in turn; by the clock, and by processor time."""
    import zarr

    import koopman_lora as kl
    from koopman_lora.data.scales import standardization
    from koopman_lora.training import train

    data = {"memory": np.load(folder / "x.npy"), "zarr": zarr.open_array(str(folder / "x.zarr"), mode="r"),
            "npy": np.load(folder / "x.npy", mmap_mode="r")}  # fmt: skip
    splits = {kind: kl.split_pairs(kl.lagged_pairs(values)) for kind, values in data.items()}
    statistics = standardization(splits["memory"].training)
    options = kl.TrainingOptions(standardize=False, patience=10**6, will_refine=True)
    found: dict[str, list] = {}
    for _ in range(rounds):
        for kind, split in splits.items():
            model = kl.KoopmanLoRAModel(N_COORDINATES, N_MODES, learn_svals=True, has_centering=True)
            model.standardize.set_statistics(*statistics)
            start = time.process_time()
            result = train(model, split, options=options)
            took = result.seconds, time.process_time() - start
            n = result.history.sizes["epoch"] * result.history.attrs["steps_per_epoch"] * 256
            found.setdefault(kind, []).append((n / took[0], n / took[1]))
    best = {kind: np.max(values, axis=0).tolist() for kind, values in found.items()}
    return {"pairs_per_second": {k: v[0] for k, v in best.items()},
            "pairs_per_processor_second": {k: v[1] for k, v in best.items()}}  # fmt: skip


def layout_case(folder: pathlib.Path, name: str, n: int) -> dict[str, object]:
    """Megabytes per second of a pass in order, and of a pass in random order, over one layout of chunks."""
    import torch
    import zarr

    import koopman_lora as kl
    from koopman_lora.data.shuffling import random_portions

    rows, width = LAYOUTS[name]
    path = folder / f"layout-{rows}-{width}.zarr"
    store = zarr.create_array(store=str(path), shape=(n, N_COORDINATES), chunks=(min(rows, n), width), dtype="f8")
    rng = np.random.default_rng(0)
    step = max(rows, CHUNK)
    for at in range(0, n, step):
        store[at : at + step] = rng.normal(size=(min(step, n - at), N_COORDINATES))
    import warnings

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pairs = kl.lagged_pairs(zarr.open_array(str(path), mode="r"))
    size = n * N_COORDINATES * 8 / 1e6

    def rate(work) -> float:
        start = time.perf_counter()
        work()
        return size / (time.perf_counter() - start)

    in_order = rate(lambda: [None for _ in pairs.batches()])
    portions = random_portions(pairs, [0, len(pairs)], torch.Generator().manual_seed(0))
    shuffled = rate(lambda: [pairs.read(part) for portion in portions for part in portion.parts])
    at_random = np.random.default_rng(0).integers(0, len(pairs), 2048).reshape(8, 256)
    start = time.perf_counter()
    for batch in at_random:
        pairs.read(batch)
    random_rate = at_random.size * N_COORDINATES * 8 / 1e6 / (time.perf_counter() - start)
    return {"mb_per_second": in_order, "shuffled_mb_per_second": shuffled, "any_order_mb_per_second": random_rate,
            "advice": str(told[0].message) if told else ""}  # fmt: skip


def many_case(folder: pathlib.Path, n_trajectories: int) -> dict[str, object]:
    """Many short trajectories of many coordinates, from a Zarr store (trajectory, time, coordinate)."""
    import xarray as xr
    import zarr

    import koopman_lora as kl

    shape = (n_trajectories, LENGTH, WIDE)
    path, together = folder / f"many-{n_trajectories}.zarr", 10
    store = zarr.create_array(
        store=str(path), shape=shape, chunks=(together, LENGTH, WIDE), dtype="f4", compressors=None
    )
    rng, a, mix = np.random.default_rng(0), rates(MANY_MODES), rotation(WIDE)[:MANY_MODES].astype("f4")
    for at in range(0, n_trajectories, together):
        slow = np.empty((together, LENGTH, MANY_MODES), dtype="f4")
        slow[:, 0] = rng.normal(size=(together, MANY_MODES))
        noise = rng.standard_normal((together, LENGTH, MANY_MODES), dtype="f4") * np.sqrt(1 - a**2).astype("f4")
        for t in range(1, LENGTH):
            slow[:, t] = a * slow[:, t - 1] + noise[:, t]
        store[at : at + together] = slow @ mix + 0.1 * rng.standard_normal((together, LENGTH, WIDE), dtype="f4")
    import dask.array as da

    data = xr.DataArray(da.from_zarr(zarr.open_array(str(path), mode="r")), dims=("trajectory", "time", "coordinate"))
    start, spent = time.perf_counter(), time.process_time()
    estimator = kl.KoopmanLoRA(n_modes=MANY_MODES, hidden_dims=(256, 256)).fit(data)
    took, spent = time.perf_counter() - start, time.process_time() - spent
    history = estimator.training_.history
    return {
        "n_pairs": n_trajectories * (LENGTH - 1),
        "data_gb": float(np.prod(shape)) * 4 / 1e9,
        "seconds": took,
        "processor_seconds": spent,
        "training_seconds": estimator.training_.seconds,
        "steps": history.sizes["epoch"] * history.attrs["steps_per_epoch"],
        "peak_gb": peak(),
    }


def child(folder: pathlib.Path, what: str, *arguments: object) -> dict:
    """A case in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--case", what, *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def fits(folder: pathlib.Path, n: int) -> dict[str, dict]:
    make(folder, n)
    found = {kind: child(folder, "fit", kind) for kind in ("memory", "zarr", "npy")}
    print(f"\n{n:,} frames x {N_COORDINATES}, {found['zarr']['data_gb']:.2f} GB, n_modes={N_MODES}, one thread\n")
    print("| from | peak GB | with summary() GB | fit s | training s | pairs / s | of memory | sigma_2, sigma_3 |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, of in found.items():
        ratio = of["pairs_per_second"] / found["memory"]["pairs_per_second"]
        sigma = ", ".join(f"{s:.4f}" for s in of["sigma"][1:3])
        print(f"| {kind} | {of['peak_gb']:.2f} | {of['peak_with_summary_gb']:.2f} | {of['seconds']:.0f} | "
              f"{of['training_seconds']:.1f} | {of['pairs_per_second']:,.0f} | {ratio:.2f} | {sigma} |")  # fmt: skip
    print(f"\nasked: 1.5 GB from Zarr; {1.3 * found['memory']['data_gb'] + 0.5:.2f} GB from memory (1.3 of it + 0.5)")
    return found


def pace(folder: pathlib.Path) -> dict[str, dict]:
    found = child(folder, "pace")
    print("\n| training from | pairs / s | of memory | pairs / processor s | of memory |\n|---|---|---|---|---|")
    clock, processor = found["pairs_per_second"], found["pairs_per_processor_second"]
    for kind in clock:
        print(f"| {kind} | {clock[kind]:,.0f} | {clock[kind] / clock['memory']:.2f} | {processor[kind]:,.0f} | "
              f"{processor[kind] / processor['memory']:.2f} |", flush=True)  # fmt: skip
    return found


def layouts(folder: pathlib.Path, n: int) -> dict[str, dict]:
    print("\n| chunk | MB/s in order | MB/s by shuffled blocks | MB/s in any order | advice |\n|---|---|---|---|---|")
    found = {}
    for name in LAYOUTS:
        of = found[name] = child(folder, "layout", name, n)
        advice = "yes" if of["advice"] else ""
        print(f"| {name} | {of['mb_per_second']:.0f} | {of['shuffled_mb_per_second']:.0f} | "
              f"{of['any_order_mb_per_second']:.2f} | {advice} |")  # fmt: skip
    return found


def many(folder: pathlib.Path, numbers: tuple[int, ...]) -> list[dict]:
    print(f"\n| trajectories | pairs | GB | fit s | training s | steps | processor s | peak GB |\n{'|---' * 8}|")
    found = []
    for number in numbers:
        of = child(folder, "many", number)
        found.append(of)
        print(f"| {number:,} | {of['n_pairs']:,} | {of['data_gb']:.2f} | {of['seconds']:.0f} | "
              f"{of['training_seconds']:.0f} | {of['steps']} | {of['processor_seconds']:.0f} | {of['peak_gb']:.2f} |",
              flush=True)  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ the page


def planned(record: dict, n_frames: int) -> dict[str, float]:
    """Seconds, GB of memory and GB of disk for a fit to so many frames, from what was measured at fewer.

    What is done once for every frame grows with their number, the training with its sixth root; memory by the masks and
    numbers that are kept for every pair.
    """
    of, small = record["fits"]["zarr"], record["small"]["zarr"]
    share = n_frames / of["n_frames"]
    per_frame = (of["peak_gb"] - small["peak_gb"]) / (of["n_frames"] - small["n_frames"])
    n_steps = share ** (1 / 6)
    return {
        "passes": (of["seconds"] - of["training_seconds"]) * share,
        "training": of["training_seconds"] * n_steps,
        "memory": of["peak_gb"] + max(per_frame, 0.0) * (n_frames - of["n_frames"]),
        "data": of["data_gb"] * share,
        "read": of["data_gb"] * share * N_PASSES,
    }


# Times that all frames are read: standardising, refinement, moments, fingerprint; training and scores read parts.
N_PASSES = 4


def page(record: dict) -> str:
    """The planning page from the record of measurements."""
    of = record["fits"]
    rows = []
    for n in (10**7, 10**8, 10**9):
        plan = planned(record, n)
        hours = (plan["passes"] + plan["training"]) / 3600
        network = plan["read"] * 8 / record["network_gbit"]
        rows.append(
            f"| 10^{round(np.log10(n))} | {plan['data']:.3g} | {hours:.2g} | {plan['passes'] / 3600:.2g} | "
            f"{plan['training'] / 3600:.2g} | {plan['memory']:.2g} | {plan['read']:.3g} | {network / 3600:.2g} |"
        )
    measured = [
        f"| {kind} | {m['peak_gb']:.2f} | {m['peak_with_summary_gb']:.2f} | {m['seconds']:.0f} | "
        f"{m['training_seconds']:.0f} |"
        for kind, m in of.items()
    ]
    chunks = [
        f"| {name} | {m['mb_per_second']:.0f} | {m['shuffled_mb_per_second']:.0f} | "
        f"{m['any_order_mb_per_second']:.2f} |"
        for name, m in record["layouts"].items()
    ]
    per_step, per_pair = rates_of(record["many"])
    lines = [
        f"| {m['n_pairs']:,} | {m['data_gb']:.2f} | {m['seconds']:.0f} | {m['training_seconds']:.0f} | "
        f"{m['steps']:,} | {m['processor_seconds']:.0f} | "
        f"{per_step * m['steps'] + per_pair * m['n_pairs']:.0f} | {m['peak_gb']:.2f} |"
        for m in record["many"]
    ]
    sigma = ", ".join(f"{s:.4f}" for s in of["zarr"]["sigma"][1:5])
    in_memory = ", ".join(f"{s:.4f}" for s in of["memory"]["sigma"][1:5])
    text = TEXT.format(
        machine=record["machine"],
        date=record["date"],
        many_date=record["many_date"],
        n_frames=f"{of['zarr']['n_frames']:,}",
        n_coordinates=N_COORDINATES,
        data=f"{of['zarr']['data_gb']:.2f}",
        n_modes=N_MODES,
        measured="\n".join(measured),
        ratio=pace_text(record["pace"]),
        sigma=sigma,
        in_memory=in_memory,
        chunks="\n".join(chunks),
        rows="\n".join(rows),
        network=record["network_gbit"],
        n_passes=N_PASSES,
        many="\n".join(lines),
        per_step=f"{1e3 * per_step:.0f}",
        per_pair=f"{1e6 * per_pair:.0f}",
    )
    return text


def rates_of(many: list[dict]) -> tuple[float, float]:
    """Processor seconds for each step of training and for each pair, with the smallest relative errors."""
    steps, pairs, spent = (np.array([m[key] for m in many], float) for key in ("steps", "n_pairs", "processor_seconds"))
    return tuple(np.linalg.lstsq(np.stack([steps / spent, pairs / spent], axis=1), np.ones(len(many)))[0])


def pace_text(found: dict) -> str:
    """How fast training from disk is beside that from memory."""
    clock, processor = found["pairs_per_second"], found["pairs_per_processor_second"]
    ratios = [f"{of[kind] / of['memory']:.2f}" for kind in ("zarr", "npy") for of in (clock, processor)]
    return (
        "The same training from one source after the other in one process, the better of two rounds: from Zarr it\n"
        f"runs at {ratios[0]} of the pace from memory by the clock and {ratios[1]} by processor time, from `.npy`\n"
        f"at {ratios[2]} and {ratios[3]}."
    )


TEXT = """# Data larger than memory

Made by `python benchmarks/scale.py --page` from `docs/scale.json`, which holds what was measured on {date}, on
{machine}. One thread of torch, a second one that reads; no other job ran beside
it.

## What stays on disk

`lagged_pairs` and `fit` take Zarr, NetCDF, memory-mapped `.npy`, Dask arrays, DataArrays in chunks, and lists or
patterns of files. Pairs are numbers of frames, never copies. Frames are read a block at a time, a block being whole
chunks of 1 MB and more. Training draws whole blocks in random order, mixes the pairs of some at a time (two portions of
8 million numbers), and reads the next portion while it trains on this one. Pairs across the edges of chunks are kept.
Up to 256 MB of files are loaded instead.

## Measured

{n_frames} frames x {n_coordinates} coordinates in double precision, {data} GB, `KoopmanLoRA(n_modes={n_modes})`:

| from | peak memory, GB | with `summary()`, GB | fit, s | of it training, s |
|---|---|---|---|---|
{measured}

{ratio} sigma_2 to sigma_5 from Zarr are {sigma}, from memory
{in_memory}: the order of the pairs differs.

## Chunks

Megabytes per second from Zarr on the local disk, compressed as Zarr does by default:

| chunk | in order | by shuffled blocks | any 256 pairs |
|---|---|---|---|
{chunks}

Reading pairs one by one in any order costs a chunk for each, which is why nothing here does it. Write chunks of some MB
that hold all numbers of a state. `lagged_pairs` warns where a block is larger than 256 MB, or chunks are smaller
than 16 kB. (Of 64 MB there are but two here, which stay in memory.)

## A plan for more frames

States of {n_coordinates} numbers, the same settings, one process. The training grows with the sixth root of the number
of frames; all else, {n_passes} passes over them, with their number. Network: the time that these passes take at
{network} Gbit/s, where the data are not on a local disk.

| frames | data, GB | hours | passes, h | training, h | memory, GB | read, GB | network, h |
|---|---|---|---|---|---|---|---|
{rows}

Memory grows by the masks of the split and the numbers of blocks, some bytes per pair. Disk: the data; the result is
some MB, 64 MB at most of it functions at held-out pairs. A time coordinate of a DataArray is read whole, 8 bytes per
frame: leave it out and say `dt` where that is too much. For fewer frames than all, pick every n-th trajectory rather
than every n-th frame.

## Many short trajectories

301 frames x 1,000 coordinates each in single precision, `n_modes=128`, `hidden_dims=(256, 256)`, Zarr through Dask:

Time is linear in the pairs and in the steps of training. Processor time beside {per_pair} microseconds for each pair
and {per_step} milliseconds for each step, measured on {many_date}:

| pairs | data, GB | fit, s | of it training, s | steps | processor time, s | by the two rates, s | peak memory, GB |
|---|---|---|---|---|---|---|---|
{many}
"""


def machine() -> str:
    found = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii") if "model name" in line]
    return f"{os.cpu_count()} cores of {found[0] if found else platform.processor()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=["fits", "layouts", "many"], default=["fits", "layouts", "many"])
    parser.add_argument("--frames", type=int, default=N_FRAMES)
    parser.add_argument("--many", type=int, nargs="+", default=MANY)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path, help="add what was measured to this record")
    parser.add_argument("--page", action="store_true", help="write the planning page from the record")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.page:
        PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    if a.case:
        what, *rest = a.case
        run = {"fit": fit_case, "layout": layout_case, "pace": pace_case, "many": many_case}[what]
        print(json.dumps(run(a.folder, *(int(r) if r.isdigit() else r for r in rest))))
        return
    n = 500_000 if a.quick else a.frames
    record: dict = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "network_gbit": 10}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(a.folder or folder)
        if "fits" in a.only:
            small = _sub(place, "small")
            make(small, n // 10)
            record["small"] = {"zarr": child(small, "fit", "zarr")}
            record["fits"] = fits(_sub(place, "full"), n)
            record["pace"] = pace(place / "full")
        if "layouts" in a.only:
            record["layouts"] = layouts(place, min(n, 2**20))
        if "many" in a.only:
            record["many_date"] = record["date"]
            record["many"] = many(place, tuple(a.many[:2] if a.quick else a.many))
    if a.write:
        known = json.loads(a.write.read_text(encoding="utf-8")) if a.write.exists() else {}
        a.write.write_text(json.dumps(known | record, indent=1) + "\n", encoding="utf-8")


def _sub(folder: pathlib.Path, name: str) -> pathlib.Path:
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    main()
