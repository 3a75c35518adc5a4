import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone
from torch import nn

from koopman_lora.data.angles import angle_hint, chosen_angles, periodic_coordinates
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.io import load_model, save_model
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.saved_analysis import open_analysis


def wandering_angle(n=1500, step=0.2, seed=0):
    """An angle that diffuses, unwrapped, and a noise beside it."""
    rng = np.random.default_rng(seed)
    return np.column_stack([np.cumsum(step * rng.normal(size=n)), rng.normal(size=n)])


def wrapped(angle, low, period):
    states = angle.copy()
    states[:, 0] = (states[:, 0] * period / (2 * np.pi) - low) % period + low
    return states


NAMED = xr.DataArray(wandering_angle(), dims=("time", "c"), coords={"c": ["phi", "psi"]})
SMALL = {"n_modes": 4, "hidden_dims": (16,), "n_epochs": 4}

# ---- which coordinates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("periodic", "wanted"),
    [
        (None, ()),
        (False, ()),
        ([], ()),
        (True, (0, 1)),
        ("psi", (1,)),
        (["psi", "phi"], (0, 1)),
        (1, (1,)),
        ([np.int64(1), "phi"], (0, 1)),
        (np.array([0]), (0,)),
    ],
)
def test_names_positions_and_true_choose_coordinates(periodic, wanted):
    assert periodic_coordinates(lagged_pairs(NAMED), periodic) == wanted


@pytest.mark.parametrize(
    ("data", "periodic", "message"),
    [
        (NAMED, "chi", "periodic names no coordinate: 'chi'; names are phi, psi"),
        (NAMED.values, ["phi"], "periodic names no coordinate: 'phi'; the data have no names; give positions"),
        (NAMED, 2, "periodic must hold names, or positions from 0 to 1; got 2"),
        (NAMED, [-1], "periodic must hold names, or positions from 0 to 1; got -1"),
        (NAMED, [0.5], "periodic must hold names, or positions from 0 to 1; got 0.5"),
        (
            np.random.default_rng(0).normal(size=(9, 3, 3)),
            True,
            r"periodic needs states that are vectors; got .*\(3, 3\)",
        ),
    ],
)
def test_bad_choices(data, periodic, message):
    with pytest.raises(ValueError, match=message):
        periodic_coordinates(lagged_pairs(data), periodic)


@pytest.mark.parametrize("period", [np.array([1.0, 2.0]), [360, 360], "360", None])
def test_a_period_of_nothing_may_be_of_any_kind(period):
    with pytest.raises(ValueError, match=r"period=.* needs periodic: the coordinates whose period it is"):
        chosen_angles(lagged_pairs(NAMED), False, period)


def test_a_period_of_nothing_is_refused():
    with pytest.raises(ValueError, match="period=360 needs periodic: the coordinates whose period it is"):
        chosen_angles(lagged_pairs(NAMED), False, 360)
    with pytest.raises(ValueError, match="period=360 needs periodic"):
        KoopmanLoRA(period=360).fit(NAMED)


# ---- hints -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "period", "advice"),
    [(-np.pi, 2 * np.pi, r"2 \* np.pi"), (0, 2 * np.pi, r"2 \* np.pi"), (-180, 360, "360"), (0, 360, "360")],
)
@pytest.mark.parametrize("lag", [1, 10])
def test_raw_angles_get_a_hint(low, period, advice, lag):
    states = wrapped(wandering_angle(4000), low, period)
    hint = rf"coordinate 0 looks like an angle that jumps at its seam; say periodic=\[0\], period={advice}, or give"
    with pytest.warns(UserWarning, match=hint):
        assert chosen_angles(lagged_pairs(states, lag), False) == ()
    assert angle_hint(lagged_pairs(states, lag), [0]) is None
    assert angle_hint(lagged_pairs(states[:, 0], lag)) is not None


@pytest.mark.slow
def test_the_hint_of_a_fit_names_coordinates_and_points_at_the_caller():
    states = wrapped(wandering_angle(), -180, 360)
    named = NAMED.copy(data=states)
    with pytest.warns(UserWarning, match=r"coordinate phi looks .* say periodic=\['phi'\], period=360") as caught:
        KoopmanLoRA(**SMALL).fit(named)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KoopmanLoRA(**SMALL, periodic="phi", period=360).fit(named)


@pytest.mark.parametrize(
    "states",
    [
        wandering_angle(),  # unwrapped
        np.pi * np.sin(0.1 * np.arange(3000)),
        np.random.default_rng(0).uniform(-np.pi, np.pi, size=3000),  # jumps about at random
        np.random.default_rng(0).uniform(0, 360, size=(3000, 2)),
        0.5 * wrapped(wandering_angle(4000), -np.pi, 2 * np.pi),  # another range
        np.random.default_rng(0).normal(size=(200, 4, 4)),
    ],
)
def test_other_data_get_none(states):
    assert angle_hint(lagged_pairs(states)) is None


# ---- in a fit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"shared_encoder": True}, {"refine": False}, {"learn_svals": False}])
@pytest.mark.parametrize(("low", "period"), [(-np.pi, 2 * np.pi), (0.0, 360.0)])
def test_functions_of_a_fit_are_exactly_periodic(options, low, period):
    states = wrapped(wandering_angle(), low, period)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = KoopmanLoRA(**SMALL, periodic=[0], period=period, **options).fit(states)
    here = torch.from_numpy(states[:200])
    there = here + torch.tensor([period, 0.0])
    for side in (estimator.model_.f, estimator.model_.g):
        with torch.no_grad():
            assert torch.allclose(side(here), side(there), atol=1e-5)
            # states in float32 are themselves rounded a period away: measured up to 5e-6 in 16 fits
            assert torch.allclose(side(here.float()), side(there.float()), atol=1e-4)
            assert (side(here) - side(here + torch.tensor([period / 2, 0.0]))).abs().max() > 0.1
    for side in ("left", "right"):
        values = [estimator.singular_functions(x.numpy(), side=side) for x in (here, there)]
        assert np.allclose(*values, atol=1e-4)


def test_the_other_coordinates_are_standardised_as_before():
    states = wandering_angle() * [1.0, 20.0] + [0.0, 300.0]
    estimator = KoopmanLoRA(**SMALL, periodic=[0]).fit(states)
    z = estimator.model_.prepare(torch.from_numpy(states))
    assert z.shape == (1500, 3)
    assert abs(float(z[:, 0].mean())) < 0.2
    assert abs(float(z[:, 0].std()) - 1) < 0.2
    assert torch.allclose(z[:, 1], torch.from_numpy(np.cos(states[:, 0])).float(), atol=1e-6)
    assert torch.allclose(z[:, 2], torch.from_numpy(np.sin(states[:, 0])).float(), atol=1e-6)


@pytest.mark.slow
def test_each_angle_may_have_a_period_of_its_own():
    states = np.column_stack([wandering_angle(seed=1)[:, 0], 30 * wandering_angle(seed=2)[:, 0]])
    estimator = KoopmanLoRA(**SMALL, periodic=True, period=[2 * np.pi, 360.0]).fit(states)
    here = estimator.singular_functions(states[:50])
    assert np.allclose(here, estimator.singular_functions(states[:50] + np.array([2 * np.pi, -360.0])), atol=1e-4)
    assert not np.allclose(here, estimator.singular_functions(states[:50] + np.array([0.0, 2 * np.pi])), atol=1e-2)


@pytest.mark.slow
def test_a_fit_of_angles_does_not_see_the_seam():
    """Wrapped at -180 or at 0 degrees, a fit is the same but for round-off of the raw angles."""
    fits = []
    for low in (-180.0, 0.0):
        states = wrapped(wandering_angle(), low, 360.0)
        fits.append(KoopmanLoRA(**SMALL, periodic=[0], period=360).fit(states).spectrum_["canonical_singular_values"])
    assert np.allclose(*fits, atol=1e-3)  # equal in 8 of 8 fits here; training magnifies round-off


@pytest.mark.slow
def test_an_angle_that_diffuses_has_the_singular_values_of_a_circle():
    """exp(-k^2 s^2 / 2), twice each: of 8,000 frames, the largest error over 8 seeds was .008 to .016."""
    states = wrapped(wandering_angle(8000, step=0.5, seed=3), -np.pi, 2 * np.pi)[:, :1]
    estimator = KoopmanLoRA(n_modes=5, hidden_dims=(32, 32), periodic=True).fit(states)
    found = estimator.spectrum_["canonical_singular_values"].values
    assert np.allclose(found, [1, *np.repeat(np.exp(-0.125 * np.array([1, 4])), 2)], atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_saved_analysis_and_model_are_as_periodic(tmp_path, shared):
    states = wrapped(wandering_angle(), 0, 360)
    estimator = KoopmanLoRA(**SMALL, periodic=[0], period=360, shared_encoder=shared).fit(states)
    estimator.save(tmp_path / "run")
    opened = open_analysis(tmp_path / "run")
    assert np.allclose(opened.singular_functions(states), estimator.singular_functions(states), atol=1e-12)
    assert np.allclose(
        opened.singular_functions(states + np.array([360, 0])), estimator.singular_functions(states), atol=1e-4
    )
    model = load_model(save_model(estimator.model_, tmp_path / "model.safetensors"))
    assert (model.standardize.periodic, model.standardize.period) == ((0,), (360.0,))


@pytest.mark.slow
def test_forecasts_and_scans_go_on_with_angles():
    states = wrapped(wandering_angle(), -np.pi, 2 * np.pi)
    estimator = KoopmanLoRA(**SMALL, periodic=[0]).fit(states)
    forecast = estimator.forecast(states[:3], steps=2)
    assert all(np.isfinite(values).all() for values in forecast.data_vars.values())
    scan = estimator.scan_lags(states, [1, 2], refit=True)
    assert np.isfinite(scan["timescales"].values[..., 1]).all()


def test_encoders_of_ones_own_receive_the_embedded_state():
    encoders = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in "fg"]
    states = wandering_angle()
    estimator = KoopmanLoRA(n_modes=4, n_epochs=3, encoder_f=encoders[0], encoder_g=encoders[1], periodic=[0]).fit(
        states
    )
    moved = states[:50] + np.array([2 * np.pi, 0])
    assert np.allclose(estimator.singular_functions(states[:50]), estimator.singular_functions(moved), atol=1e-4)


def test_the_settings_are_those_of_scikit_learn():
    estimator = KoopmanLoRA(periodic=["phi"], period=360.0)
    assert clone(estimator).get_params()["periodic"] == ["phi"]
    assert clone(estimator).get_params()["period"] == 360.0


# ---- in a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"shared_encoder": True}, {"use_batchnorm": True}])
def test_a_model_keeps_its_kind_and_precision(options):
    plain, model = (KoopmanLoRAModel(3, 2, hidden_dims=(5,), **options).double().eval() for _ in range(2))
    model.set_periodic([2, 0], [1.0, 2.0])
    x = torch.randn(6, 3, dtype=torch.float64)
    assert type(model.encoders) is type(plain.encoders)
    assert model.shared_encoder == plain.shared_encoder
    assert model.f(x).dtype == torch.float64
    assert torch.allclose(model.f(x), model.f(x + torch.tensor([2.0, 0, 1.0])), atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((3, 3), ([0],), r"periodic needs states that are vectors; got statistics of shape \(1, 1\)"),
        (2, ([2],), r"periodic must be different positions from 0 to 1; got \[2\]"),
        (2, ([1, 1],), "periodic must be different positions"),
        (2, (["phi"],), "periodic must be an integer; got 'phi'"),
        (2, ([0], 0.0), "period must be positive and finite, one or one for each of 1 periodic coordinates; got 0.0"),
        (2, ([0], float("nan")), "period must be positive and finite"),
        (2, ([0, 1], [1.0]), r"one for each of 2 periodic coordinates; got \[1.0\]"),
    ],
)
def test_impossible_periods_of_a_model(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        KoopmanLoRAModel(shape, 2).set_periodic(*arguments)
