"""Files of every kind damaged in every way, each read in a process of its own batch: what `test_damaged_files` runs.

`python damaged_files.py FOLDER KINDS SEED N` writes a file of each kind, damages it N times, reads it, and prints JSON
for each: how it was damaged, and what came of it: an error, or whether the values are those that were written.
"""

import contextlib
import io
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pandas as pd
import scipy.sparse
import torch
import xarray as xr

import koopman_lora as kl
from koopman_lora.cli import main

STATES = np.random.default_rng(1).normal(size=(200, 2))
TRAJECTORIES = xr.DataArray(
    STATES,
    dims=("time", "coordinate"),
    coords={"time": 0.5 * np.arange(200.0), "coordinate": ["x", "y"]},
    name="state",
    attrs={"time_unit": "ps"},
)
MATRIX = scipy.sparse.random_array((30, 20), density=0.3, format="csr", rng=np.random.default_rng(2))


def write_model(path):
    torch.manual_seed(0)
    model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(4,), learn_svals=True, has_centering=True)
    model.calibrate(torch.tensor(STATES), torch.tensor(STATES))
    kl.save_model(model, path)


def read_model(path):
    model = kl.load_model(path)
    return [tensor.numpy() for tensor in model.state_dict().values()] + [repr(model.clock)]


def write_analysis(path):
    kl.KoopmanLoRA(n_modes=3, hidden_dims=(4,), n_epochs=1).fit(TRAJECTORIES).save(path)


def read_analysis(path):
    fitted = kl.open_analysis(path).fitted
    return [fitted.moments.everywhere.M_f, fitted.validation.sigma, str(fitted.recipe), str(fitted.settings)]


class Stopped(Exception):
    """Ends a training."""


class Stopping(kl.NestedLoRALoss):
    """Stops after so many steps; what starts with an underscore makes no other loss of it."""

    def __init__(self, n_steps):
        super().__init__(3)
        self._left = n_steps

    def forward(self, f, g, svals=None):
        self._left -= 1
        if self._left < 0:
            raise Stopped
        return super().forward(f, g, svals)


def train(path, n_steps, resume, seed=0):
    torch.manual_seed(0)
    model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(4,))
    options = kl.TrainingOptions(checkpoint=path, checkpoint_every=0, resume=resume)
    pairs = kl.lagged_pairs(TRAJECTORIES)
    kl.fit(model, pairs, loss=Stopping(n_steps), n_epochs=3, batch_size=60, options=options, seed=seed)
    return [tensor.numpy() for tensor in model.state_dict().values()]


def write_checkpoint(path):
    with contextlib.suppress(Stopped):
        train(path, 5, resume=False)


def write_foreign_checkpoint(path):
    with contextlib.suppress(Stopped):
        train(path, 5, resume=False, seed=1)


def read_checkpoint(path):
    """The end of the run: where the newest state is damaged, it is that from the one before."""
    return train(path, 99, resume=True)


def read_dataset(path):
    dataset = kl.load_dataset(path)
    return [*(dataset[name].values for name in sorted(dataset.variables)), str(dataset.attrs), dataset.state.attrs]


def write_table(path):
    pd.DataFrame(STATES, columns=["x", "y"]).to_parquet(path)


def read_trajectories(path):
    data = kl.open_trajectories(path)
    if isinstance(data, np.ndarray):
        return [data]
    return [np.asarray(data), str(data.attrs), *(data[name].values for name in sorted(data.coords))]


def on_command_line(folder, *arguments):
    """What a command prints, but for the folder's name; its message, one line with status 2, as an error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(map(str, arguments)))
    if status:
        assert status == 2 and err.getvalue().count("\n") == 1, err.getvalue()  # noqa: PT018
        raise ValueError(err.getvalue())
    return [out.getvalue().replace(str(folder), "")]


def decompose(path):
    (text,) = on_command_line(path.parent, "svd", path, "--n-modes", "2", "--out", path.parent / "out.nc")
    return [text.splitlines()[0]]  # the singular values; behind them stand round-off errors


def fit(path):
    options = ["--n-modes", "2", "--n-epochs", "1", "--hidden-dims", "4", "--out", path.parent / "fit"]
    return on_command_line(path.parent, "fit", path, *options)


# what writes a file, what reads it, and whether the format or we can tell that values were changed
KINDS = {
    "a.nc": (lambda path: kl.save_dataset(TRAJECTORIES, path), read_dataset, True),
    "t.nc": (lambda path: kl.save_dataset(TRAJECTORIES, path), read_trajectories, True),
    "a.zarr": (lambda path: kl.save_dataset(TRAJECTORIES, path), read_dataset, True),
    "t.zarr": (lambda path: kl.save_dataset(TRAJECTORIES, path), read_trajectories, True),
    "m.safetensors": (write_model, read_model, True),
    "analysis": (write_analysis, read_analysis, True),
    "kept": (write_checkpoint, read_checkpoint, True),
    "foreign.nc": (lambda path: TRAJECTORIES.to_netcdf(path, engine="h5netcdf"), read_trajectories, False),
    "foreign.zarr": (lambda path: TRAJECTORIES.to_dataset().to_zarr(path), fit, False),
    "x.npy": (lambda path: np.save(path, STATES), read_trajectories, False),
    "x.npz": (lambda path: np.savez(path, STATES), read_trajectories, True),
    "x.parquet": (write_table, read_trajectories, False),
    "H.npz": (lambda path: scipy.sparse.save_npz(path, MATRIX), decompose, True),
    "fit.zarr": (lambda path: kl.save_dataset(TRAJECTORIES, path), fit, True),
}


def truncated(content, rng):
    return content[: rng.integers(len(content))]


def flipped(content, rng):
    content = bytearray(content)
    for position in rng.integers(len(content), size=rng.integers(1, 4)):
        content[position] ^= 1 << rng.integers(8)
    return bytes(content)


def flipped_in_the_head(content, rng):
    """Formats keep shapes and sizes there."""
    return flipped(content[:256], rng) + content[256:]


def overwritten(content, rng):
    start = rng.integers(len(content))
    length = min(rng.integers(1, 65), len(content) - start)
    return content[:start] + rng.bytes(length) + content[start + length :]


def swapped(content, rng):
    a, b, c = sorted(rng.integers(len(content), size=3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def zeros_at_the_end(content, rng):
    start = rng.integers(len(content))
    return content[:start] + bytes(len(content) - start)


def random_json(content, rng):
    values = [None, 3, -1, 1e300, "x", [], {}, [[]], {"shape": [10**9, 10**9], "format": "koopman_lora.model.v5"}]
    try:
        record = json.loads(content)
        keys = list(record)
        record[keys[rng.integers(len(keys))]] = values[rng.integers(len(values))]
    except (ValueError, TypeError, UnicodeDecodeError):
        record = values[rng.integers(len(values))]
    return json.dumps(record).encode()


# what writes another thing of the same kind, whose files take the place of these
OTHERS = {
    "kept": write_foreign_checkpoint,
    "analysis": lambda path: kl.KoopmanLoRA(n_modes=2, hidden_dims=(4,), n_epochs=1).fit(TRAJECTORIES).save(path),
}

DAMAGES = (truncated, flipped, flipped_in_the_head, overwritten, swapped, zeros_at_the_end, random_json)


def is_same(a, b):
    same = [np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in zip(a, b, strict=False)]
    return len(a) == len(b) and all(same)


def damage(path, rng, other):
    """Damage one of the files at `path`, of a checkpoint often both, and say how; `other` is of the same kind."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    file = files[rng.integers(len(files))]
    if path.name == "kept" and rng.integers(2):
        return " and ".join(damage_file(path, file, rng, other) for file in files)
    return damage_file(path, file, rng, other)


def damage_file(path, file, rng, other):
    replacements = sorted(replacement for replacement in (*path.glob("*.*"), *other.glob("*.*")) if replacement != file)
    if other.exists() and rng.integers(8) == 0:
        replacement = replacements[rng.integers(len(replacements))]
        shutil.copyfile(replacement, file)
        return f"{file.name} replaced by {replacement.parent.name}/{replacement.name}"
    if path.is_dir() and rng.integers(8) == 0:
        file.unlink()
        return f"{file.name} removed"
    # HDF5 itself can hang on others' files that were changed inside; ours never reach it then
    damages = (truncated, random_json) if path.name == "foreign.nc" else DAMAGES
    how, before = damages[rng.integers(len(damages))], file.read_bytes()
    if before:
        file.write_bytes(how(before, rng))
    return f"{file.name} {how.__name__}"


def run(folder, kind, seed, n_cases):
    """Print what comes of `n_cases` damaged files of a kind."""
    write, read, _ = KINDS[kind]
    whole, copy = folder / "whole" / kind, folder / kind
    other = folder / "other" / kind
    for place in (whole, other):
        place.parent.mkdir(parents=True, exist_ok=True)
    write(whole)
    if kind in OTHERS:
        OTHERS[kind](other)
    shutil.copytree(whole, copy) if whole.is_dir() else shutil.copyfile(whole, copy)
    expected = read(copy)  # which for a checkpoint goes on with it
    rng = np.random.default_rng([seed, *kind.encode()])
    for _ in range(n_cases):
        remove(copy)
        shutil.copytree(whole, copy) if whole.is_dir() else shutil.copyfile(whole, copy)
        case = {"kind": kind, "how": damage(copy, rng, other)}
        print(json.dumps(case), flush=True)  # before it is read, should the process end there
        try:
            case["same"] = bool(is_same(read(copy), expected))
        except Exception as error:
            case |= {"error": type(error).__name__, "is_expected": isinstance(error, ValueError | OSError)}
            case |= {"text": str(error)[:300]}
        print(json.dumps(case), flush=True)


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for kind in sys.argv[2].split(","):
        run(pathlib.Path(sys.argv[1]), kind, int(sys.argv[3]), int(sys.argv[4]))
