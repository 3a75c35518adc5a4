"""Save and load results and models: NetCDF or Zarr, and safetensors with JSON settings; no code is ever executed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from xarray.backends import H5NetCDFStore

from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.data.files import open_store, read_netcdf
from koopman_lora.data.seals import PROVENANCE, seal_store, sealed, told_of
from koopman_lora.data.whole_files import check_replaceable, write_whole
from koopman_lora.encoder_pairs import EncoderPair
from koopman_lora.encoders import CNN
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.sealed_tensors import read_sealed, sealed_bytes

_COMPLEX_DIM = "real_imag"
_FORMAT = "koopman_lora.model.v5"  # v3 carries a checksum, v4 a linear part, v5 whether it is reversible


@checked
def save_dataset(dataset: xr.Dataset | xr.DataArray, path: str | os.PathLike) -> pathlib.Path:
    """Write a Dataset to `.nc` (NetCDF) or `.zarr`; complex variables are kept as pairs of real ones.

    The file appears under its name only when it is complete, with a checksum that `load_dataset` looks at. Links are
    followed, and the permissions of an older file are kept. A NetCDF file is made in memory: a larger Dataset needs
    `.zarr`.

    Parameters
    ----------
    dataset : Dataset or DataArray
    path : str or path
        With the ending `.nc` or `.zarr`.

    Raises
    ------
    ValueError
        For another ending.
    OSError
        If the folder cannot be written, or a folder of that name holds anything but a Zarr store to replace.

    Examples
    --------
    >>> import tempfile
    >>> data = xr.Dataset({"eigenvalues": ("mode", np.array([1.0, 0.5 + 0.5j]))})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_dataset(save_dataset(data, folder + "/s.nc")).identical(data)
    True
    """
    path = pathlib.Path(path)
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"path must end in .nc or .zarr; got {str(path)!r}.")
    check_replaceable(path)
    if isinstance(dataset, xr.DataArray):
        dataset = dataset.to_dataset(name=dataset.name or "state")
    encoded = _split_complex(dataset)
    if path.suffix == ".nc":
        return write_whole(path, lambda temporary: temporary.write_bytes(sealed(_netcdf(encoded))))
    return write_whole(path, lambda temporary: _write_store(encoded, temporary))


def _netcdf(dataset: xr.Dataset) -> bytes:
    """A NetCDF file as bytes: HDF5 that meets a full disk while it writes can crash the process."""
    import h5netcdf
    import h5py

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        dataset.compute().dump_to_store(H5NetCDFStore(file))
    with h5py.File(buffer, "r+") as raw:
        stated = raw.attrs["_NCProperties"]
        stated = stated.decode() if isinstance(stated, bytes) else stated
        raw.attrs["_NCProperties"] = np.array(f"{stated},{PROVENANCE}".encode())
    return buffer.getvalue()


def _write_store(dataset: xr.Dataset, folder: pathlib.Path) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    dataset = dataset.copy()
    for name in dataset.variables:
        encoding = {key: value for key, value in dataset[name].encoding.items() if key != "compressor"}
        dataset[name].encoding = encoding | {"compressors": (ZstdCodec(), Crc32cCodec())}
    try:
        dataset.to_zarr(folder, mode="w", consolidated=False, zarr_format=3)
    except BaseException:
        _await_zarr()
        raise
    seal_store(folder)


def _await_zarr() -> None:
    """Wait for what Zarr still writes: where one chunk fails it goes on with the others, and makes folders anew."""
    from zarr.core.sync import sync

    async def others() -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        if pending:
            await asyncio.wait(pending)

    sync(others())


@checked
def load_dataset(path: str | os.PathLike) -> xr.Dataset:
    """Read a Dataset that `save_dataset` wrote, into memory.

    Parameters
    ----------
    path : str or path
        Of a `.nc` file or `.zarr` store.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        If the file is damaged, or none of NetCDF or Zarr.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = kl.save_dataset(xr.Dataset({"sigma": ("mode", [1.0, 0.5])}), folder + "/s.nc")
    ...     load_dataset(path).sigma.values
    array([1. , 0.5])
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist.")
    dataset = open_store(path) if path.suffix == ".zarr" else read_netcdf(path)
    with told_of(path):
        return _join_complex(dataset.load())


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


def plain(value: Any) -> Any:
    """What JSON can hold of a value: numbers of numpy as plain ones, else text.

    Examples
    --------
    >>> json.dumps({"n_modes": np.int64(3)}, default=plain)
    '{"n_modes": 3}'
    """
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


@checked
def save_model(model: KoopmanLoRAModel, path: str | os.PathLike) -> pathlib.Path:
    """Write a model's weights and settings to one `.safetensors` file, with a checksum.

    Parameters
    ----------
    model : KoopmanLoRAModel
    path : str or path
        With the ending `.safetensors`.

    Raises
    ------
    ValueError
        For another ending.
    OSError
        If the folder cannot be written, or a folder has that name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(kl.KoopmanLoRAModel(2, 3, hidden_dims=(8,)), folder + "/m.safetensors").name
    'm.safetensors'
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}.")
    # a shared encoder appears under two names; one copy is stored
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not _is_duplicate(model, k)}
    settings = json.dumps(model_settings(model), default=plain)
    content = sealed_bytes(state, {"format": _FORMAT, "settings": settings})
    return write_whole(path, lambda temporary: temporary.write_bytes(content))


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
        "is_reversible": model.is_reversible,
        "periodic": list(model.standardize.periodic),
        "period": list(model.standardize.period),
    }


@checked
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

    Examples
    --------
    >>> import tempfile
    >>> model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(8,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load_model(save_model(model, folder + "/m.safetensors"))
    >>> again.n_modes == model.n_modes
    True
    """
    path = pathlib.Path(path)
    state, texts = read_sealed(path, _FORMAT, "a model")
    with told_of(path):
        settings = json.loads(texts["settings"])
        _check_shapes(settings, state)
    model = _rebuild(settings, encoder_f, encoder_g)
    if settings["shared_encoder"]:
        prefix = "encoders.module_f."
        state |= {k.replace(prefix, "encoders.module_g."): v for k, v in state.items() if k.startswith(prefix)}
    try:
        model.load_state_dict(state, assign=True)  # assigned, not copied: every tensor keeps its own precision
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} has other weights than the encoders need: {error}") from None
    return model.eval()


def _check_shapes(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Compare what the settings would build with the weights at hand, before any memory is taken for it."""
    is_users = settings["encoder"] == "user"
    modelled = {**settings, "has_own_head_g": False} if is_users else settings
    others = (nn.Identity(), None if settings["shared_encoder"] else nn.Identity()) if is_users else (None, None)
    with torch.device("meta"):
        expected = _rebuild(modelled, *others).state_dict()
    for name, tensor in expected.items():
        if name in state and state[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}; the settings need {tuple(tensor.shape)}")


def _rebuild(settings: Mapping[str, Any], encoder_f: nn.Module | None, encoder_g: nn.Module | None) -> KoopmanLoRAModel:
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
    if settings["periodic"]:
        model.set_periodic(settings["periodic"], settings["period"])
    if settings["has_own_head_g"]:
        cast(EncoderPair, model.encoders).separate_head(
            model.prepare(model.standardize.mean.new_zeros(1, *model.state_shape))
        )
    model.clock, model.is_reversible = Clock.from_attrs(settings["clock"]), settings["is_reversible"]
    return model
