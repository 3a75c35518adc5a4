import numpy as np
import pytest
from pictures import texts

from koopman_lora._labels import interval, labelled
from koopman_lora.plots import plot_input_importance

LOSS = np.array([[0, 0.1, 0.5], [0, 0.4, 0.2], [0, 0.0, 0.1]])
NAMES = ["a", "b", "c" * 60]


def importance():
    variables = {
        "sigma": ("mode", [1.0, 0.9, 0.75]),
        "sigma_loss": (("input", "mode"), LOSS),
        **interval("sigma_loss", ["input", "mode"], np.stack([LOSS - 0.05, LOSS + 0.05])),
    }
    return labelled(variables, {"level": 0.9}, {"input": NAMES})


def test_inputs_stand_in_the_order_of_their_largest_loss():
    ax = plot_input_importance(importance())
    assert [label.get_text()[:3] for label in ax.get_yticklabels()] == ["a", "b", "ccc"]
    assert texts(ax) == ["mode 2, sigma 0.90", "mode 3, sigma 0.75"]
    assert ax.get_xlabel() == "sigma lost, 90 % intervals"
    assert ax.yaxis_inverted()


def test_points_and_intervals_are_those_of_the_mode():
    ax = plot_input_importance(importance(), modes=[2])
    assert [label.get_text()[:3] for label in ax.get_yticklabels()] == ["b", "a", "ccc"]
    (points,) = [line for line in ax.lines if str(line.get_label()).startswith("mode")]
    np.testing.assert_allclose(points.get_xdata(), [0.4, 0.1, 0.0])
    segments = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 0], [[0.35, 0.45], [0.05, 0.15], [-0.05, 0.05]])


def test_few_inputs_of_many_are_said_to_be_so():
    ax = plot_input_importance(importance(), n_inputs=1)
    assert ax.get_ylabel() == "input (1 of 3)"
    assert len(ax.get_yticklabels()) == 1


def test_modes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"modes must be among \[1, 2, 3\]; got \[4\]"):
        plot_input_importance(importance(), modes=[4])
