"""What values must be: each kind of error by its words, one line each; the doctests of the rooms have the others."""

import inspect
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import nn

import koopman_lora as kl
from koopman_lora.arguments import as_svals, check_tensors, copied, in_batches, pair_of, real_tensor
from koopman_lora.checks import as_annotated, checked
from koopman_lora.kinds import (
    check_matrices,
    check_shape,
    check_stacks,
    finite_array,
    number,
    path,
    positions,
    real_array,
    share,
    shown,
    text,
    whole,
)

META, SPARSE = torch.ones(2, 3, device="meta"), torch.ones(2, 3).to_sparse()


class Uncopied(nn.Module):
    """As a module that holds an open file or a lock."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: whole("n", 10**30), ValueError, "n must be an integer of at most 2147483647; got 1000000000000000000"),
        (lambda: number("level", "a"), ValueError, "level must be a number; got 'a'"),
        (lambda: number("level", True), ValueError, "level must be a number; got True"),
        (lambda: number("level", -np.inf), ValueError, "level must be a finite number; got -inf"),
        (lambda: share("threshold", np.nan), ValueError, "threshold must be a finite number; got nan"),
        (lambda: finite_array("P", [[1], [1, 2]]), TypeError, r"P must be a rectangular array of numbers; got \[\[1\]"),
        (lambda: finite_array("P", META), TypeError, "P must be an array of numbers; of this tensor there is none"),
        (lambda: finite_array("P", SPARSE), TypeError, "P must be an array of numbers; of this tensor there is none"),
        (lambda: real_array("P", [1j]), TypeError, "P must be an array of real numbers; got one of dtype complex128"),
        (lambda: positions("rows", [0.5]), TypeError, r"rows must be positions or a mask, .* got float64 of shape \(1"),
        (lambda: check_shape("left", META, (2, 3)), TypeError, "left must be a dense tensor with data; got .* on meta"),
        (lambda: check_matrices("A", np.ones(3)), ValueError, r"A must have shape \(n, n\); got \(3,\)"),
        (lambda: check_matrices("A", np.ones((1, 2, 3)), 4), ValueError, r"A must have shape \(4, n\); got \(1, 2, 3"),
        (lambda: check_matrices("A", np.ones((1, 2, 3)), is_one=True), ValueError, r"A must have .* got \(1, 2, 3\)"),
        (lambda: check_stacks("M", {"a": None}, (3,)), ValueError, r"M\['a'\] must be matrices, .* \(3,\); got None"),
        (lambda: text("unit", 5), TypeError, "unit must be a text; got 5"),
        (lambda: path("folder", 5), TypeError, "folder must be a path; got 5"),
        (lambda: path("folder", ""), ValueError, "folder must be a path; got an empty text"),
        (lambda: path("folder", dict), TypeError, "folder must be a path; got the class dict"),
        (lambda: real_tensor("x", torch.tensor(1.0)), TypeError, "x must hold several states; got a single number"),
        (lambda: real_tensor("x", META), TypeError, "x must hold numbers; got a tensor without data, on meta"),
        (lambda: copied("encoder_f", Uncopied()), TypeError, "encoder_f must be a module that can be copied; got Unc"),
        (lambda: pair_of("batches", [1, 2, 3]), TypeError, r"batches must be of pairs \(x, x_next\); got \[1, 2, 3\]"),
        (lambda: in_batches(2, a=torch.ones(3), b=torch.ones(4)), ValueError, r"a and b must hold equally many .*\(4,"),
        (lambda: check_tensors(f=SPARSE), TypeError, "f must be a dense tensor; got torch.sparse_coo"),
        (lambda: check_tensors(f=torch.ones(2).int()), TypeError, r"f must hold floating-point .* Use f.float\(\)"),
        (lambda: as_svals([1.0], 2), ValueError, r"svals must have shape \(2,\), one per feature; got \(1,\)"),
        (lambda: as_annotated("f", dict, Callable), TypeError, "f must be a function of states; got the class dict"),
        (lambda: as_annotated("f", 5, Callable[[int], int]), TypeError, "f must be a function of states; got 5"),
        (lambda: as_annotated("X", np.array(1.0), Iterable), TypeError, "X must be an Iterable; got array"),
        (lambda: as_annotated("a", [1], tuple[int, int]), ValueError, "a must have 2 entries; got 1"),
        (lambda: as_annotated("a", 5, list[int]), TypeError, "a must be a list or a tuple; got 5"),
        (lambda: as_annotated("n", "a", int | None), ValueError, "n must be an integer; got 'a'"),
    ],
)
def test_each_kind_of_value_is_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_came_is_shown_short():
    assert shown("x" * 100) == "str"
    assert shown(np.zeros(3)) == "an array of shape (3,)"


@checked
def _lookup(table: dict, key: str) -> int:
    return table[key] + np.ones(3)[key == "far" and 7]


@pytest.mark.parametrize(("key", "error"), [("absent", KeyError), ("far", IndexError)])
def test_an_inner_error_stays_what_it_is(key, error):
    """A fault of ours is not dressed up as one of the user's."""
    with pytest.raises(error) as caught:
        _lookup({"far": 1}, key)
    assert caught.value.__cause__ is None


# ---- names of elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl.KoopmanLoRA(lagtime=2), "lagtime is called lag here: give lag=2"),
        (lambda: kl.KoopmanLoRA(dim=5), "dim is called n_modes here: give n_modes=5"),
        (lambda: kl.KoopmanLoRA(random_state=0), "random_state is called seed here: give seed=0"),
        (lambda: kl.NeuralSVD(n_components=2), "n_components is called n_modes here: give n_modes=2"),
        (lambda: kl.lagged_pairs(np.zeros(9), lagtime=2), "lagtime is called lag here: give lag=2"),
        (lambda: kl.membership_coefficients(None, n_metastable_sets=3), "give n_states=3"),
        (lambda: kl.number_of_states(rank=3), "missing a required argument"),  # nothing of it is called so there
        (lambda: kl.KoopmanLoRA(lag_time=2), "unexpected keyword argument 'lag_time'"),
    ],
)
def test_names_of_other_packages_are_answered_with_ours(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_constructors_keep_their_signature():
    assert "n_modes" in inspect.signature(kl.KoopmanLoRA).parameters
    assert kl.KoopmanLoRA(3).get_params()["n_modes"] == 3
