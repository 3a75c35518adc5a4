import warnings

import numpy as np
import pytest
import torch

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.scales import standardization
from koopman_lora.estimator import KoopmanLoRA

GOOD = np.random.default_rng(4).normal(size=(20, 2))
SERIES = np.random.default_rng(5).normal(size=(2000, 2))


@pytest.fixture(autouse=True)
def _no_warning_unless_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def with_outlier(value, frame=700, column=1, series=SERIES):
    states = series.copy()
    states[frame, column] = value
    return states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_coordinates_with_large_offsets(dtype):
    rng = np.random.default_rng(6)
    values = (rng.normal(size=(4001, 3)) * [1e-2, 1.0, 1e3] + [300, 2.0e5, -5e6]).astype(dtype)
    mean, scale = standardization(lagged_pairs(values))
    assert mean.dtype == scale.dtype == torch.float64
    both = np.concatenate([values[:-1], values[1:]]).astype(np.float64)
    assert np.allclose(mean, both.mean(0), rtol=1e-14)
    assert np.allclose(scale, both.std(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("state", "axes", "shape"),
    [
        ((2,), (0,), (2,)),
        ((4, 5), (0, 1, 2), (1, 1)),
        ((3, 4, 5), (0, 2, 3), (3, 1, 1)),
        ((2, 3, 4, 5), (0, 1, 2, 3, 4), (1,) * 4),
    ],
)
def test_statistics_are_per_coordinate_per_channel_or_per_image(state, axes, shape):
    values = np.random.default_rng(7).normal(size=(50, *state)) + np.arange(state[0]).reshape(
        -1, *(1,) * (len(state) - 1)
    )
    mean, scale = standardization(lagged_pairs(values))
    both = np.concatenate([values[:-1], values[1:]])
    assert tuple(mean.shape) == tuple(scale.shape) == shape
    assert np.allclose(mean.flatten(), both.mean(axes).flatten())
    assert np.allclose(scale.flatten(), both.std(axes).flatten())


@pytest.mark.parametrize("constant", [0.0, 0.1, 300.3, -1e8 / 3])
def test_constant_coordinates_keep_scale_one(constant):
    """Round-off of a mean must not become a scale: a later state a little off the constant would explode."""
    values = np.column_stack([GOOD[:, 0], np.full(20, constant)])
    _, scale = standardization(lagged_pairs(values, check_constant=False))
    assert scale[1] == 1


# ---- very large and very small ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e300, 1e200, 1e-200, 1e-300])
def test_no_scale_of_double_precision_overflows_or_vanishes(scale):
    wanted_mean, wanted_scale = standardization(lagged_pairs(SERIES))
    mean, deviation = standardization(lagged_pairs(SERIES * scale))
    assert np.allclose(mean / scale, wanted_mean, rtol=1e-9, atol=1e-12)
    assert np.allclose(deviation / scale, wanted_scale, rtol=1e-9)


@pytest.mark.slow
def test_a_fit_does_not_depend_on_the_unit_however_large():
    fits = [KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(SERIES * scale) for scale in (1.0, 2.0**990)]
    ours, theirs = (fit.spectrum_["canonical_singular_values"].values for fit in fits)
    assert np.allclose(ours, theirs, rtol=1e-4)  # equal here to the last digit; float32 adds in another order elsewhere
    assert ours[1] > 0.01


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (SERIES * 1e307, r"data reaches \d\S+e\+307, too large for sums in torch.float64; choose a larger unit"),
        ((SERIES * 5e37).astype(np.float32), r"too large for sums in torch.float32; give float64, or choose a larger"),
        (
            (SERIES * 1e-38).astype(np.float32),
            r"data deviates by no more than .* which torch.float32 rounds; give float",
        ),
    ],
)
def test_what_overflows_or_vanishes_is_refused(states, message):
    with pytest.raises(ValueError, match=message):
        standardization(lagged_pairs(states))


# ---- outliers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e30, -1e12, 1e300])
def test_an_outlier_beside_which_all_else_is_constant_is_refused(value):
    with pytest.raises(ValueError, match=r"outlier at frame 700 of trajectory 1, coordinate 1, value .*float32 cannot"):
        standardization(lagged_pairs([SERIES[:50], with_outlier(value)]))
    with pytest.raises(ValueError, match="data holds an outlier at frame 700"):
        KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(with_outlier(value))


@pytest.mark.parametrize(("frame", "lag"), [(0, 1), (1999, 1), (1999, 7), (1000, 7)])
def test_an_outlier_is_found_on_either_side_of_the_pairs(frame, lag):
    with pytest.raises(ValueError, match=f"outlier at frame {frame} of trajectory 0, coordinate 0"):
        standardization(lagged_pairs(with_outlier(1e30, frame, 0), lag))


def test_an_outlier_that_leaves_little_is_warned_of_by_name():
    import xarray as xr

    array = xr.DataArray(with_outlier(1e6), dims=("time", "c"), coords={"c": ["phi", "psi"]})
    with pytest.warns(UserWarning, match=r"frame 700 .* coordinate 1 \(psi\), value 1e\+06: .* networks see little"):
        standardization(lagged_pairs(array))


def test_an_outlier_in_an_image_is_found():
    images = np.random.default_rng(0).normal(size=(300, 2, 3, 4))
    images[40, 1, 2, 2] = 1e30
    with pytest.raises(ValueError, match="outlier at frame 40 of trajectory 0: beside it"):
        standardization(lagged_pairs(images))
    with pytest.raises(ValueError, match="outlier at frame 40 of trajectory 0: beside it"):
        standardization(lagged_pairs(images[:, 1]))


@pytest.mark.parametrize(
    "states",
    [
        with_outlier(50.0),
        np.random.default_rng(0).standard_cauchy(size=(5000, 3)),
        np.exp(3 * np.random.default_rng(1).normal(size=(5000, 2))),
        (np.arange(3000) == 1500).astype(float),  # an indicator of one rare event
        1e-9 * SERIES[:, 0] + (np.arange(2000) % 100 == 0),  # bursts
    ],
)
def test_heavy_tails_and_rare_events_are_no_outliers(states):
    mean, scale = standardization(lagged_pairs(states))
    assert torch.isfinite(mean).all()
    assert (torch.isfinite(scale) & (scale > 0)).all()


def test_nothing_is_asked_of_the_scale_of_angles():
    mean, scale = standardization(lagged_pairs(with_outlier(1e12)), periodic=(1,))
    assert torch.isfinite(mean).all()
    assert (scale > 0).all()
