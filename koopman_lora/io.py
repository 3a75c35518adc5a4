"""Save and load results and models: NetCDF or Zarr, and safetensors with JSON settings; no code is ever executed."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from koopman_lora.clock import Clock
from koopman_lora.encoder_pairs import EncoderPair
from koopman_lora.encoders import CNN
from koopman_lora.model import KoopmanLoRAModel

_COMPLEX_DIM = "real_imag"
_FORMAT = "koopman_lora.model.v2"


def save_dataset(dataset: xr.Dataset | xr.DataArray, path: str | os.PathLike) -> pathlib.Path:
    """Write a Dataset to `.nc` (NetCDF) or `.zarr`; complex variables are kept as pairs of real ones.

    The file appears under its name only when it is complete.

    Raises
    ------
    ValueError
        For another ending.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> data = xr.Dataset({"eigenvalues": ("mode", np.array([1.0, 0.5 + 0.5j]))})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_dataset(save_dataset(data, folder + "/s.nc")).identical(data)
    True
    """
    path = pathlib.Path(path)
    if isinstance(dataset, xr.DataArray):
        dataset = dataset.to_dataset(name=dataset.name or "state")
    encoded = _split_complex(dataset)
    if path.suffix == ".nc":
        return write_whole(path, lambda temporary: encoded.to_netcdf(temporary, engine="h5netcdf"))
    if path.suffix == ".zarr":
        return write_whole(path, lambda temporary: encoded.to_zarr(temporary, mode="w", consolidated=False))
    raise ValueError(f"path must end in .nc or .zarr; got {str(path)!r}.")


def load_dataset(path: str | os.PathLike) -> xr.Dataset:
    """Read a Dataset that `save_dataset` wrote.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist.")
    if path.suffix == ".zarr":
        return _join_complex(xr.open_zarr(path, consolidated=False).load())
    return _join_complex(xr.load_dataset(path, engine="h5netcdf"))


def _split_complex(dataset: xr.Dataset) -> xr.Dataset:
    result = dataset.copy()
    for name, variable in dataset.data_vars.items():
        if np.iscomplexobj(variable):
            parts = np.stack([variable.values.real, variable.values.imag], axis=-1)
            result[name] = ((*variable.dims, _COMPLEX_DIM), parts, variable.attrs)
    return result


def _join_complex(dataset: xr.Dataset) -> xr.Dataset:
    for name, variable in dataset.data_vars.items():
        if _COMPLEX_DIM in variable.dims:
            values = variable.values[..., 0] + 1j * variable.values[..., 1]
            dataset[name] = (variable.dims[:-1], values, variable.attrs)
    return dataset


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> pathlib.Path:
    """Write beside the target, then rename: a reader never sees half a file, and a failure leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = folder / path.name
        write(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def save_model(model: KoopmanLoRAModel, path: str | os.PathLike) -> pathlib.Path:
    """Write a model's weights and settings to one `.safetensors` file.

    Raises
    ------
    ValueError
        For another ending.
    OSError
        If the folder cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}.")
    metadata = {"format": _FORMAT, "settings": json.dumps(model_settings(model))}
    # a shared encoder appears under two names; one copy is stored
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not _is_duplicate(model, k)}
    return write_whole(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def _is_duplicate(model: KoopmanLoRAModel, name: str) -> bool:
    return model.shared_encoder and name.startswith("encoders.module_g.")


def model_settings(model: KoopmanLoRAModel) -> dict[str, Any]:
    """Everything but weights that rebuilds a model, as plain JSON values."""
    encoder = getattr(model.encoders, "module_f", None)
    kind = "mlp" if not model.has_own_encoders else "cnn" if type(encoder) is CNN else "user"
    return {
        "input_dim": list(model.state_shape),
        "n_modes": model.n_modes,
        "hidden_dims": list(model.hidden_dims),
        "activation": model.activation,
        "use_batchnorm": model.use_batchnorm,
        "shared_encoder": model.shared_encoder,
        "learn_svals": model.learn_svals,
        "has_centering": model.has_centering,
        "encoder": kind,
        "cnn": encoder.settings if isinstance(encoder, CNN) else None,
        "has_own_head_g": getattr(model.encoders, "head_g", None) is not None,
        "clock": model.clock.attrs(),
    }


def load_model(
    path: str | os.PathLike, encoder_f: nn.Module | None = None, encoder_g: nn.Module | None = None
) -> KoopmanLoRAModel:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    encoder_f, encoder_g : nn.Module, optional
        Freshly built encoders of the same architecture, needed for a model with encoders of your own: a file holds
        weights, never code.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        If the file is none of ours, or needs encoders that were not given.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist.")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} is not a model of koopman_lora; its format is {metadata.get('format')!r}.")
    settings = json.loads(metadata["settings"])
    model = _rebuild(settings, encoder_f, encoder_g)
    state = load_file(path)
    if settings["shared_encoder"]:
        prefix = "encoders.module_f."
        state |= {k.replace(prefix, "encoders.module_g."): v for k, v in state.items() if k.startswith(prefix)}
    model.load_state_dict(state, assign=True)  # assigned, not copied: every tensor keeps its own precision
    return model.eval()


def _rebuild(settings: dict[str, Any], encoder_f: nn.Module | None, encoder_g: nn.Module | None) -> KoopmanLoRAModel:
    if settings["encoder"] == "user" and encoder_f is None:
        raise ValueError(
            "this model has encoders of your own; pass encoder_f (and encoder_g) of the same architecture."
        )
    if settings["encoder"] == "cnn":
        encoder_f = CNN(**settings["cnn"])
        encoder_g = None if settings["shared_encoder"] else CNN(**settings["cnn"])
    if encoder_f is not None:
        model = KoopmanLoRAModel.from_encoders(
            settings["input_dim"],
            settings["n_modes"],
            encoder_f,
            encoder_g,
            learn_svals=settings["learn_svals"],
            has_centering=settings["has_centering"],
        )
    else:
        model = KoopmanLoRAModel(
            settings["input_dim"],
            settings["n_modes"],
            hidden_dims=settings["hidden_dims"],
            activation=settings["activation"],
            use_batchnorm=settings["use_batchnorm"],
            shared_encoder=settings["shared_encoder"],
            learn_svals=settings["learn_svals"],
            has_centering=settings["has_centering"],
        )
    if model.shared_encoder != settings["shared_encoder"]:
        needs = "no encoder_g" if settings["shared_encoder"] else "an encoder_g"
        raise ValueError(f"this model was saved with shared_encoder={settings['shared_encoder']}; it needs {needs}.")
    if settings["has_own_head_g"]:
        cast(EncoderPair, model.encoders).separate_head(
            model.prepare(model.standardize.mean.new_zeros(1, *model.state_shape))
        )
    model.clock = Clock.from_attrs(settings["clock"])
    return model
