"""Arguments: whole numbers, tensors and arrays; and the doors that take them."""

import numpy as np
import pytest
import torch

from koopman_lora.accumulation import estimate_moments
from koopman_lora.arguments import as_plain, as_svals, check_positive, check_tensors, real_tensor, whole
from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.comparison import compare_singular_values
from koopman_lora.encoders import PeriodicEmbedding
from koopman_lora.findings import training_findings
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.losses import NestedLoRALoss, lora_loss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.spectrum import koopman_spectrum


def test_whole_numbers_become_pythons_own():
    assert type(whole("n", np.int64(3))) is int
    assert whole("n", -3) == -3
    for value in (2.0, "2", True, None, np.float64(2), [2]):
        with pytest.raises(ValueError, match="n must be an integer; got"):
            whole("n", value)


@pytest.mark.parametrize("value", ["0.1", [0.1], 1j])
def test_what_is_no_number_is_not_positive(value):
    with pytest.raises(ValueError, match="learning_rate must be a number; got"):
        check_positive("learning_rate", value)


ARRAY = np.arange(6.0).reshape(3, 2)


def read_only():
    array = ARRAY.copy()
    array.setflags(write=False)
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "array",
    [ARRAY, read_only(), ARRAY.astype(">f8"), np.asfortranarray(ARRAY), ARRAY[::-1][::-1], ARRAY.astype("f4")],
    ids=["plain", "read-only", "big-endian", "fortran", "reversed", "single"],
)
def test_arrays_become_tensors_of_their_own(array):
    tensor = real_tensor("x", array)
    assert np.array_equal(tensor.numpy(), ARRAY)
    assert tensor.element_size() == array.itemsize
    tensor += 1
    assert np.array_equal(array, ARRAY)


@pytest.mark.parametrize("value", [ARRAY.astype(int), torch.arange(3), ARRAY.astype(complex), ARRAY.astype(object)])
def test_integers_and_complex_states_are_refused(value):
    with pytest.raises(TypeError, match="x must hold real floating-point numbers; got"):
        real_tensor("x", value)


def test_svals_of_tensors_with_a_gradient():
    assert as_svals(torch.ones(2, requires_grad=True), 2).dtype == float
    assert as_svals([1, 2], 2).tolist() == [1.0, 2.0]


def test_plain_values():
    assert as_plain([np.float32(0.5), (np.int8(2),), np.bool_(True)]) == [0.5, (2,), True]
    assert type(as_plain((np.int64(1),))[0]) is int


# ---- models and losses -----------------------------------------------------------------------------------------------


def test_a_model_takes_arrays_of_states():
    model = KoopmanLoRAModel(2, 3, hidden_dims=(4,))
    x = torch.from_numpy(ARRAY)
    for ours, theirs in zip((model.f(ARRAY), model.g(ARRAY), *model(ARRAY, ARRAY)), (model.f(x), model.g(x)) * 2):  # noqa: B905
        assert ours.shape == (3, 3)
        assert torch.equal(ours, theirs) or torch.allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(TypeError, match="x must hold real floating-point numbers; got int64"):
        model.f(ARRAY.astype(int))
    with pytest.raises(TypeError, match=r"x must be a tensor or an array; got list. Use torch.tensor\(x\)"):
        model.g(ARRAY.tolist())


@pytest.mark.parametrize(
    "loss", [lora_loss, NestedLoRALoss(2), VAMPLoss(), DPNetLoss()], ids=["f", "lora", "vamp", "dp"]
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_losses_ask_for_tensors(loss, position):
    arguments = [torch.randn(8, 2), torch.randn(8, 2), torch.full((2,), 0.5)]
    arguments[position] = arguments[position].numpy()
    name = ("f", "g", "svals")[position]
    with pytest.raises(TypeError, match=rf"{name} must be a tensor; got ndarray. Use torch.as_tensor\({name}\)"):
        loss(*arguments)


def test_an_embedding_asks_for_a_tensor():
    with pytest.raises(TypeError, match="x must be a tensor; got ndarray"):
        PeriodicEmbedding()(ARRAY)


def test_check_tensors_names_the_first_that_is_none():
    with pytest.raises(TypeError, match="b must be a tensor; got float"):
        check_tensors(a=torch.ones(1), b=1.0)


# ---- learned singular values as the model gives them -----------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        koopman_spectrum,
        lambda m, s: compare_singular_values(m, s, bootstrap=Bootstrap(n_resamples=10)),
        lambda m, s: bootstrap_intervals(m, s, Bootstrap(n_resamples=10)),
    ],
    ids=["spectrum", "comparison", "intervals"],
)
def test_svals_may_be_a_tensor_with_a_gradient(question):
    model = KoopmanLoRAModel(2, 3, hidden_dims=(4,), learn_svals=True)
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    model.calibrate(x[:-1], x[1:])
    moments = estimate_moments(model.eval().f, model.g, (x[:-1], x[1:]))
    assert model.svals.requires_grad
    assert question(moments, model.svals).equals(question(moments, model.svals_array()))


def test_findings_take_a_tensor_with_a_gradient():
    model = KoopmanLoRAModel(2, 3, hidden_dims=(4,), learn_svals=True)
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    model.calibrate(x[:-1], x[1:])
    model.set_svals(torch.tensor([1.0, 0.5, 1e-5]))
    moments = estimate_moments(model.eval().f, model.g, (x[:-1], x[1:]))
    names = [finding.name for finding in training_findings(moments, model.svals)]
    assert "saturated svals" in names
    assert names == [finding.name for finding in training_findings(moments, model.svals_array())]
