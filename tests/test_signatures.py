import inspect

import pytest

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.signatures import parameters_of
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.training_options import TrainingOptions


@pytest.mark.parametrize("thing", [KoopmanLoRA, NeuralSVD, Bootstrap, KoopmanAnalysis.residuals, TrainingOptions])
def test_defaults_are_those_that_python_finds(thing):
    file = thing.__module__.removeprefix("koopman_lora.").replace(".", "/") + ".py"
    found = {name: parameter.default for name, parameter in parameters_of(file, thing.__qualname__).items()}
    defaults = {name: p.default for name, p in inspect.signature(thing).parameters.items()}
    with_default = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    assert found == {name: with_default[name] for name in found}
    assert len(with_default) - len(found) <= 1  # the period of KoopmanLoRA is written 2 pi


def test_types_are_those_of_the_annotations_without_none():
    found = {name: parameter.type for name, parameter in parameters_of("estimator.py", "KoopmanLoRA").items()}
    assert (found["n_modes"], found["lag"], found["dt"], found["nesting"]) == (int, int, float, str)
    assert found["hidden_dims"] is None


def test_what_has_no_literal_default_is_left_out():
    found = parameters_of("estimator.py", "KoopmanLoRA")
    assert {"period", "self"} & set(found) == set()
