"""Run the benchmark: tables on the screen, CSV files and a figure per table in a folder.

make bench                                          # everything, hours
make bench ARGUMENTS="--quick"                      # two seeds of two systems
PYTHONPATH=benchmarks .venv-bench/bin/python -m bench.run --only rare-4 rare-8 --methods ours nystroem --seeds 3

The best settings of the peers stand in best_settings.json, each found by `--tune` as the best of the candidates in
methods.py on one more draw, by the very measure of the table: kinder than any user could be to a method.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from _shared import exact_maps

import koopman_lora as kl
from bench.figures import draw_figure
from bench.methods import METHODS, Method, Settings
from bench.systems import QUICK, SYSTEMS, Behind, FeatureMaps, Seen

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
BEST = HERE / "best_settings.json"
OTHER_PYTHON = ROOT / ".venv-mlcolvar" / "bin" / "python"  # mlcolvar wants an older scikit-learn
TUNING_SEED = 1000
N_CURVE_SEEDS = 3
FLOOR = "statistical floor"


class Run(NamedTuple):
    """One fit: what it was, how long it took, what share it captured, NaN and a note where it failed."""

    system: str
    method: str
    kind: str  # "default", "best", "curve" or "floor"
    setting: str
    seed: int
    seconds: float
    share: float
    note: str = ""


class Row(NamedTuple):
    """Runs of one method and setting over the seeds."""

    system: str
    method: str
    kind: str
    setting: str
    n_seeds: int
    n_failed: int
    share_median: float
    share_min: float
    share_max: float
    seconds_median: float
    seconds_min: float
    seconds_max: float


def written(settings: Settings) -> str:
    """Settings as text."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def best_settings() -> dict[str, dict[str, Settings]]:
    """System -> method -> settings that were the best in a draw that is not reported."""
    return json.loads(BEST.read_text()) if BEST.exists() else {}


def timed_fit(method: Method, settings: Settings, data: kl.LaggedPairs, k: int, seed: int) -> tuple[FeatureMaps, float]:
    """Feature maps, and the seconds from pairs to them."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = method.fit(data, k, seed, **settings)
    return maps, time.perf_counter() - start


def measure(system: Seen | Behind, name: str, kind: str, settings: Settings, seed: int, pairs: Any) -> Run:
    """Fit and score once; what a method raises is a result, too."""
    method = METHODS[name]
    about = (system.title, method.label, kind, written(settings), seed)
    try:
        maps, seconds = timed_fit(method, settings, pairs, system.n_modes, seed)
        return Run(*about, seconds, system.share(maps))
    except Exception as error:
        return Run(*about, np.nan, np.nan, f"{type(error).__name__}: {error}".splitlines()[0])


def floor(system: Seen | Behind, hidden: kl.LaggedPairs, seed: int) -> Run:
    """What sampling alone costs: half as many exact functions more than modes, solved on the same pairs."""
    k = system.n_modes
    _, left, right = system.exact
    maps = exact_maps(left, right, 3 * k // 2, hidden, k)
    share = system.share(maps, hidden=True)
    return Run(system.title, FLOOR, "floor", f"{3 * k // 2} exact functions", seed, np.nan, share)


def plan(key: str, names: Sequence[str], has_curves: bool) -> list[tuple[str, str, Settings, bool]]:
    """What to run of each method: (name, kind, settings, only for the first seeds)."""
    best, todo = best_settings().get(key, {}), []
    for name in names:
        method = METHODS[name]
        todo += [(name, "default", row, False) for row in method.rows]
        if name in best:
            todo.append((name, "best", best[name], False))
        elif method.candidates:
            print(f"(no best settings known of {method.label} on {key}: run with --tune)")
        todo += [(name, "curve", row, True) for row in method.ladder if has_curves]
    return todo


def run_system(key: str, names: Sequence[str], n_seeds: int, has_curves: bool) -> list[Run]:
    """All runs of a system: the same draws for every method, one after the other."""
    system, runs, todo = SYSTEMS[key], [], plan(key, names, has_curves)
    for seed in range(n_seeds):
        pairs, hidden = system.draw(seed)
        if "ours" in names:
            runs.append(floor(system, hidden, seed))
        for name, kind, settings, is_short in todo:
            if seed < N_CURVE_SEEDS or not is_short:
                runs.append(measure(system, name, kind, settings, seed, pairs))
                tell(runs[-1])
    return runs


def tell(run: Run) -> None:
    """Progress, on the error stream."""
    print(
        f"  {run.method} [{run.setting}] seed {run.seed}: {run.share:.4f}, {run.seconds:.1f} s {run.note}",
        file=sys.stderr,
    )


def tune(key: str, names: Sequence[str]) -> None:
    """Look for the best of each method's candidates on a draw of its own, and write it down."""
    system = SYSTEMS[key]
    pairs, _ = system.draw(TUNING_SEED)
    for name in names:
        runs = []
        for settings in METHODS[name].candidates:
            runs.append(measure(system, name, "best", settings, TUNING_SEED, pairs))
            tell(runs[-1])
        if runs:
            place = int(np.nanargmax([run.share for run in runs]))
            known = best_settings()
            known.setdefault(key, {})[name] = METHODS[name].candidates[place]
            BEST.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def warm_up(names: Sequence[str]) -> None:
    """Import what each method needs before a clock starts."""
    pairs = kl.lagged_pairs(kl.systems.NoisyLogisticMap().simulate(1, 600))
    for name in names:
        timed_fit(METHODS[name], METHODS[name].rows[0], pairs, 3, 0)


def summarised(runs: Sequence[Run]) -> list[Row]:
    """Medians and spreads, in the order in which the methods stand."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(run[:4], []).append(run)
    rows = []
    for group, members in groups.items():
        good = [run for run in members if np.isfinite(run.share)]
        spread = [
            statistic([getattr(run, field) for run in good]) if good else np.nan
            for field in ("share", "seconds")
            for statistic in (np.median, np.min, np.max)
        ]
        rows.append(Row(*group, len(members), len(members) - len(good), *map(float, spread)))
    return rows


def table(title: str, rows: Sequence[Row]) -> str:
    """The table of a system as text, best median first; the floor last."""
    shown = sorted(
        (r for r in rows if r.kind != "curve"), key=lambda r: (r.kind == "floor", -np.nan_to_num(r.share_median))
    )
    lines = [f"\n{title}", f"{'method':22s}{'setting':44s}{'share, median (min..max)':>30s}{'seconds':>22s}"]
    for row in shown:
        setting = ("best: " if row.kind == "best" else "") + row.setting
        share = f"{row.share_median:.4f} ({row.share_min:.4f}..{row.share_max:.4f})"
        seconds = f"{row.seconds_median:.1f} ({row.seconds_min:.1f}..{row.seconds_max:.1f})"
        failed = f"  {row.n_failed} of {row.n_seeds} failed" if row.n_failed else ""
        lines.append(f"{row.method:22s}{setting:44s}{share:>30s}{'' if row.kind == 'floor' else seconds:>22s}{failed}")
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """One line: this package against the best of the others, by the median, and its worst seed against linear VAMP."""
    label = METHODS["ours"].label
    own = [r for r in rows if r.method == label and r.kind == "default"]
    others = [r for r in rows if r.method not in (label, FLOOR) and r.kind != "curve" and r.n_failed < r.n_seeds]
    if not own or not others:
        return ""
    best = max(others, key=lambda r: r.share_median)
    text = f"{label} minus the best other ({best.method}, {best.setting or 'as documented'}): "
    text += f"{own[0].share_median - best.share_median:+.4f}"
    linear = [r for r in others if r.method == METHODS["linear"].label]
    if linear:
        text += f"; its worst seed minus linear VAMP's: {own[0].share_min - linear[0].share_min:+.4f}"
    floors = [r for r in rows if r.kind == "floor"]
    if floors:
        text += f"; error over the floor's: {(1 - own[0].share_median) / max(1 - floors[0].share_median, 1e-9):.1f}"
    return text


def write(path: pathlib.Path, kind: type, rows: Sequence[Any]) -> None:
    """Named tuples as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(kind._fields)
        writer.writerows(rows)


def read(path: pathlib.Path) -> list[Run]:
    """Runs from CSV."""
    with path.open(newline="") as file:
        return [
            Run(
                r["system"],
                r["method"],
                r["kind"],
                r["setting"],
                int(r["seed"]),
                float(r["seconds"]),
                float(r["share"]),
                r["note"],
            )
            for r in csv.DictReader(file)
        ]


def elsewhere(key: str, names: Sequence[str], arguments: argparse.Namespace) -> list[Run]:
    """Runs of methods whose packages are not installed here but in the other environment."""
    if not names:
        return []
    out = arguments.out / "other_environment"
    command = [OTHER_PYTHON, "-m", "bench.run", "--only", key, "--methods", *names]
    command += ["--seeds", str(arguments.seeds), "--out", out]
    command += [flag for flag in ("--tune", "--no-curves") if getattr(arguments, flag[2:].replace("-", "_"))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    return [] if arguments.tune else read(out / f"{key}.csv")


def installed(name: str) -> bool:
    """Whether a method can run in this environment."""
    return importlib.util.find_spec(METHODS[name].needs) is not None


def divided(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Methods that run here, and those that run in the other environment; the rest is told."""
    here = [name for name in names if installed(name)]
    absent = [name for name in names if name not in here]
    there = [name for name in absent if METHODS[name].needs == "mlcolvar" and OTHER_PYTHON.exists()]
    for name in set(absent) - set(there):
        print(f"{METHODS[name].label} is left out: {METHODS[name].needs} is not installed.")
    return here, there


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}",
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of each system")
    parser.add_argument("--quick", action="store_true", help=f"two seeds of {', '.join(QUICK)}, no curves")
    parser.add_argument("--no-curves", action="store_true", help="only the rows of the tables")
    parser.add_argument(
        "--tune", action="store_true", help="look for the best settings of the peers, and write them down"
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "results", help="folder of CSV and figures")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only, arguments.no_curves = arguments.only or list(QUICK), True
        arguments.seeds = min(arguments.seeds, 2)
    return arguments


def machine() -> str:
    """Where it ran."""
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, Python {platform.python_version()}"
    versions = f"torch {torch.__version__}, numpy {np.__version__}, koopman_lora {kl.__version__}"
    return f"{platform.machine()}, {cores}, {versions}"


def main() -> None:
    """Run what the command line says."""
    arguments = parse()
    here, there = divided(arguments.methods)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "machine.txt").write_text(machine() + "\n")
    print(machine())
    warm_up(here)
    summary: list[Row] = []
    for key in arguments.only or SYSTEMS:
        if arguments.tune:
            tune(key, here)
            elsewhere(key, there, arguments)
            continue
        runs = run_system(key, here, arguments.seeds, not arguments.no_curves) + elsewhere(key, there, arguments)
        rows = summarised(runs)
        write(arguments.out / f"{key}.csv", Run, runs)
        draw_figure(SYSTEMS[key].title, runs, rows, arguments.out / f"{key}.png")
        print(table(SYSTEMS[key].title, rows), verdict(rows), sep="\n", flush=True)
        summary += rows
    write(arguments.out / "summary.csv", Row, summary)


if __name__ == "__main__":
    main()
