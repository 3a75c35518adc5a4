import json
import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import koopman_lora as kl
from koopman_lora import io
from koopman_lora.clock import Clock
from koopman_lora.data.whole_files import write_whole
from koopman_lora.encoders import CNN
from koopman_lora.sealed_tensors import read_sealed, sealed_bytes


def dataset():
    return xr.Dataset(
        {"eigenvalues": ("mode", np.array([1.0, 0.5 + 0.25j])), "svals": ("mode", [1.0, 0.5], {"units": "1"})},
        coords={"mode": [1, 2]},
        attrs={"lag": 3, "time_unit": "ps"},
    )


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_datasets_come_back_identical(tmp_path, name):
    assert kl.load_dataset(kl.save_dataset(dataset(), tmp_path / "new folder" / name)).identical(dataset())


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_saving_again_replaces(tmp_path, name):
    kl.save_dataset(dataset(), tmp_path / name)
    kl.save_dataset(dataset().isel(mode=[0]), tmp_path / name)
    assert kl.load_dataset(tmp_path / name).sizes["mode"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_trajectories_saved_are_opened(tmp_path):
    trajectories = kl.systems.NoisyRotation().simulate(n_trajectories=2, n_steps=20, seed=0)
    path = kl.save_dataset(trajectories, tmp_path / "x.nc")
    assert np.array_equal(kl.open_trajectories(path), trajectories)
    assert kl.lagged_pairs(kl.open_trajectories(path)).clock.time_unit == trajectories.attrs["time_unit"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = kl.save_dataset(dataset(), tmp_path / "a.nc")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert kl.load_dataset(path).identical(dataset())
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_endings_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.nc or \.zarr"):
        kl.save_dataset(dataset(), tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        kl.save_model(kl.KoopmanLoRAModel(1, 2), tmp_path / "a.pt")


@pytest.mark.parametrize("load", [kl.load_dataset, kl.load_model])
def test_missing_files_are_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"nothing\.nc"):
        load(tmp_path / "nothing.nc")


def calibrated(model, shape):
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    model.calibrate(x, x.flip(0))
    model.clock = Clock(3, 0.5, "ps")
    return model.eval(), x


MODELS = {
    "default": lambda: (kl.KoopmanLoRAModel(2, 4, learn_svals=True, has_centering=True), (2,)),
    "shared": lambda: (kl.KoopmanLoRAModel(2, 4, shared_encoder=True, learn_svals=True), (2,)),
    "batchnorm": lambda: (kl.KoopmanLoRAModel(2, 4, hidden_dims=(8,), activation="ELU", use_batchnorm=True), (2,)),
    "cnn": lambda: (kl.KoopmanLoRAModel.from_encoders((8, 8), 4, CNN(1, 4), CNN(1, 4)), (8, 8)),
    "float64": lambda: (kl.KoopmanLoRAModel(2, 4, learn_svals=True).double(), (2,)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_come_back_with_the_same_features(tmp_path, kind):
    model, x = calibrated(*MODELS[kind]())
    loaded = kl.load_model(kl.save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(loaded.f(x), model.f(x))
    assert torch.equal(loaded.g(x), model.g(x))
    assert loaded.clock == Clock(3, 0.5, "ps")
    assert (model.svals is None and loaded.svals is None) or torch.equal(loaded.svals, model.svals)


@pytest.mark.slow
def test_a_shared_encoder_with_its_own_last_layer_comes_back(tmp_path):
    pairs = kl.lagged_pairs(kl.systems.NoisyRotation().simulate(n_steps=600, seed=0))
    estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(16,), shared_encoder=True, n_epochs=3).fit(pairs)
    assert estimator.model_.linear.abs().sum() > 0
    loaded = kl.load_model(kl.save_model(estimator.model_, tmp_path / "m.safetensors"))
    assert torch.equal(loaded.g(pairs.x), estimator.model_.g(pairs.x))
    assert not torch.allclose(loaded.g(pairs.x), loaded.f(pairs.x))


def test_own_encoders_must_be_given_to_load(tmp_path):
    def encoder():
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))

    model, x = calibrated(kl.KoopmanLoRAModel.from_encoders(2, 3, encoder(), encoder()), (2,))
    path = kl.save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="pass encoder_f"):
        kl.load_model(path)
    assert torch.equal(kl.load_model(path, encoder(), encoder()).f(x), model.f(x))


def with_settings(path, **changes):
    """The same weights with other settings, and a checksum that fits: what no damage but a person makes."""
    state, texts = read_sealed(path, io._FORMAT, "a model")
    texts = texts | {"settings": json.dumps(json.loads(texts["settings"]) | changes)}
    path.write_bytes(sealed_bytes(state, texts))


@pytest.mark.parametrize(
    "changes",
    [{"n_modes": 10**9}, {"hidden_dims": [10**9, 10**9]}, {"input_dim": [10**12]}, {"n_modes": 10**30}],
    ids=["n_modes", "hidden_dims", "input_dim", "beyond integers"],
)
@pytest.mark.parametrize("kind", ["default", "shared", "batchnorm"])
def test_settings_that_are_not_those_of_the_weights_are_refused_before_memory_is_taken(tmp_path, changes, kind):
    path = kl.save_model(calibrated(*MODELS[kind]())[0], tmp_path / "m.safetensors")
    with_settings(path)
    kl.load_model(path)
    with_settings(path, **changes)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"m\.safetensors' cannot be read"):
        kl.load_model(path)
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_numbers_of_numpy_as_settings_are_saved(tmp_path):
    model = kl.KoopmanLoRAModel(np.int32(2), np.int64(3), hidden_dims=np.array([8, 4]), learn_svals=np.bool_(True))
    loaded = kl.load_model(kl.save_model(model, tmp_path / "m.safetensors"))
    assert (loaded.n_modes, list(loaded.hidden_dims)) == (3, [8, 4])


def test_own_encoders_of_another_shape_are_refused(tmp_path):
    path = kl.save_model(kl.KoopmanLoRAModel.from_encoders(2, 3, nn.Linear(2, 3)), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="other weights than the encoders need"):
        kl.load_model(path, nn.Linear(2, 4))


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a model of koopman_lora"):
        kl.load_model(tmp_path / "a.safetensors")
