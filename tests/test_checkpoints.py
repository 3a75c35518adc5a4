"""The last two whole states of a run: what comes back is what was kept, or an error that says what is wrong."""

import json
import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koopman_lora.checkpoints import NEWEST, PREVIOUS, Checkpoints, _packed, _unpacked

IDENTITY = {"seed": 0, "hidden_dims": [4, 8], "loss": "NestedLoRALoss", "data": "f" * 32}
STATE = {
    "step": 3,
    "name": None,
    "lists": [1.5, [float("inf"), True, "text"]],
    "weights": {"a.b": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0, 3), "0": torch.tensor(2.5)},
    "generator": torch.arange(9, dtype=torch.uint8),
    "complex": torch.tensor([1 + 2j, -0.5j]),
    "scores": np.array([0.1, np.nan, 1 / 3]),
}


def kept(folder, *states, identity=IDENTITY):
    checkpoints = Checkpoints(folder, identity, every=0)
    for state in states:
        checkpoints.save(state)
    return checkpoints


def is_same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def test_a_state_comes_back_with_the_same_bits(tmp_path):
    kept(tmp_path / "new" / "folder", STATE)
    assert is_same(Checkpoints(tmp_path / "new" / "folder", IDENTITY, 0).load(), STATE)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64]), hnp.array_shapes(max_dims=2, max_side=3)).map(
        torch.from_numpy
    )
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc/.", min_size=2), inner)))
def test_any_nested_state_passes_through_json(state):
    tensors = {}
    record = json.loads(json.dumps(_packed(state, tensors, "")))
    found = _unpacked(record, tensors)
    assert str(found) == str(state)


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    whole = torch.arange(6.0)
    state = {"one": whole, "other": whole, "part": whole[2:]}
    assert is_same(kept(tmp_path, state).load(), state)


def test_a_state_is_not_changed_by_what_comes_later(tmp_path):
    weights = torch.zeros(3)
    checkpoints = kept(tmp_path, {"weights": weights})
    weights += 1
    assert torch.equal(checkpoints.load()["weights"], torch.zeros(3))


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"plain values and tensors; got a function|got .*function.* at /model/extra"):
        kept(tmp_path, {"model": {"extra": len}})


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = kept(tmp_path, *({"step": step} for step in range(5)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [NEWEST, "notes.txt", PREVIOUS]
    assert checkpoints.load() == {"step": 4}
    (tmp_path / NEWEST).unlink()
    assert checkpoints.load() == {"step": 3}


def test_nothing_to_load(tmp_path):
    assert Checkpoints(tmp_path / "none", IDENTITY, 0).load() is None
    Checkpoints(tmp_path / "none", IDENTITY, 0).check_unused()


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_damaged_one_gives_way_to_the_one_before_it_which_is_said(tmp_path):
    kept(tmp_path, {"step": 1}, {"step": 2})
    content = bytearray((tmp_path / NEWEST).read_bytes())
    content[-1] ^= 1
    (tmp_path / NEWEST).write_bytes(content)
    checkpoints = Checkpoints(tmp_path, IDENTITY, 0)
    with pytest.warns(
        UserWarning, match=rf"{NEWEST}' (is damaged|cannot be read).*The one before it, '.*{PREVIOUS}', is used"
    ):
        assert checkpoints.load() == {"step": 1}
    checkpoints.save({"step": 3})  # in the place of the damaged one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.load() == {"step": 3}
    (tmp_path / NEWEST).unlink()
    assert checkpoints.load() == {"step": 1}


def test_where_none_is_whole_nothing_is_guessed(tmp_path):
    kept(tmp_path, {"step": 1}, {"step": 2})
    for name in (NEWEST, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"no checkpoint in .* is whole: .*{NEWEST}.*{PREVIOUS}.*Remove them to start"
    ):
        Checkpoints(tmp_path, IDENTITY, 0).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"data": "e" * 32}, "of another fit: data differ"),
        ({"hidden_dims": (4, 9), "seed": None}, r"seed is 0 there and None here; hidden_dims is \[4, 8\] there"),
        ({"weight_decay": 0.1}, "weight_decay is None there and 0.1 here"),
    ],
)
def test_a_state_of_another_run_is_refused_with_what_differs(tmp_path, changes, message):
    kept(tmp_path, {"step": 1})
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, IDENTITY | changes, 0).load()


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / NEWEST, {"format": "koopman_lora.model.v5"})
    with pytest.raises(ValueError, match=r"is not a checkpoint of koopman_lora; its format is 'koopman_lora.model.v5'"):
        Checkpoints(tmp_path, IDENTITY, 0).load()


def test_an_earlier_run_is_not_overwritten(tmp_path):
    kept(tmp_path, {"step": 1})
    with pytest.raises(FileExistsError, match="is of an earlier fit; go on with it by resume=True"):
        Checkpoints(tmp_path, IDENTITY, 0).check_unused()


def test_another_torch_is_told(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "2.0.0")
        kept(tmp_path, {"step": 1})
    Checkpoints(tmp_path, IDENTITY, 0).load()
    assert "was written by torch 2.0.0: later digits may differ" in caplog.text


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"checkpoint '.*file/newest.safetensors' cannot be written"):
        kept(tmp_path / "file", {"step": 1})


@pytest.mark.parametrize("moment", ["writing", "flushing"])
def test_a_full_disk_leaves_a_whole_state(tmp_path, monkeypatch, moment):
    checkpoints = kept(tmp_path, {"step": 1}, {"step": 2})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(*{"writing": ("pathlib.Path.write_bytes", full), "flushing": ("os.fsync", full)}[moment])
        with pytest.raises(OSError, match="No space left on device"):
            checkpoints.save({"step": 3})
    assert checkpoints.load() == {"step": 2}
    checkpoints.save({"step": 4})
    assert checkpoints.load() == {"step": 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == [NEWEST, PREVIOUS]


def test_it_is_due_when_its_time_has_passed(tmp_path):
    assert Checkpoints(tmp_path, IDENTITY, every=0).is_due
    assert not Checkpoints(tmp_path, IDENTITY, every=1e6).is_due
