import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora._linalg import whitened_svd
from koopman_lora.loss_terms import lora_terms
from koopman_lora.moments import CROSS, DEFINITIONS, Moments
from koopman_lora.normalisation import normalise


def features(seed=0, n=40, is_complex=False, has_constant=False):
    """Rows of f and g, of unequal scales and means that are not zero."""
    rng = np.random.default_rng(seed)
    f, noise = rng.normal(size=(2, n, 3)) + (1j * rng.normal(size=(2, n, 3)) if is_complex else 0)
    scale = np.array([0.01, 1.0, 100.0])
    f, g = (f + 0.7) * scale, (0.8 * f + 0.5 * noise - 0.4) * scale[::-1]
    if has_constant:
        f, g = (np.hstack([np.ones((n, 1)), side]) for side in (f, g))
    return f, g


def moments_of(f, g):
    sides = {"f": f, "g": g}
    sums = {n: (sides[DEFINITIONS[n][0][0]].conj().T @ sides[DEFINITIONS[n][1][0]])[None] for n in CROSS}
    return Moments(sums, np.array([float(len(f))]))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("has_constant", [False, True])
@pytest.mark.parametrize("learn_svals", [False, True])
def test_moments_are_those_of_normalised_rows(is_complex, has_constant, learn_svals):
    f, g = features(1, is_complex=is_complex, has_constant=has_constant)
    normal = normalise(moments_of(f, g), has_constant, learn_svals)
    first = int(has_constant)
    rows = []
    for side, values in enumerate((f, g)):
        own = (values[:, first:] - normal.mean[side]) / normal.scale[side]
        rows.append(np.hstack([values[:, :first], own]))
        assert np.allclose(values @ normal.maps[side], rows[side], atol=1e-12)
        if has_constant:
            assert np.abs(own.mean(axis=0)).max() < 1e-10 * np.abs(own).max()
        if learn_svals:
            assert np.allclose(np.mean(np.abs(own) ** 2, axis=0), 1, rtol=1e-10)
        else:
            assert (normal.scale == 1).all()
    wanted = moments_of(*rows)
    for name in CROSS:
        size = np.abs(getattr(wanted, name)).max()
        assert np.allclose(getattr(normal.moments, name), getattr(wanted, name), atol=1e-12 * size), name


@given(seed=st.integers(0, 10_000), has_constant=st.booleans())
def test_svals_are_the_best_for_these_features(seed, has_constant):
    normal = normalise(moments_of(*features(seed, has_constant=has_constant)), has_constant, learn_svals=True)
    terms = lora_terms(normal.moments.M_f, normal.moments.T_fg, normal.moments.M_g)
    assert ((normal.svals >= 0) & (normal.svals <= 1)).all()
    assert not has_constant or normal.svals[0] == 1
    for row in range(int(has_constant), len(normal.svals)):
        for step in (1e-3, -1e-3):
            moved = np.clip(normal.svals + step * np.eye(len(normal.svals))[row], 0, 1)
            assert terms.loss(moved) >= terms.loss(normal.svals) - 1e-12


def test_svals_of_refined_features_are_canonical_and_none_where_they_are_not_learned():
    raw = moments_of(*features(2, has_constant=True))
    canonical = whitened_svd(raw.M_f, raw.T_fg, raw.M_g).values
    assert np.allclose(normalise(raw, True, True, is_refined=True).svals, canonical, rtol=1e-9)
    assert normalise(raw, True, False, is_refined=True).svals is None
    assert normalise(raw, True, False).svals is None


def test_without_constant_and_svals_nothing_is_changed():
    raw = moments_of(*features(3))
    normal = normalise(raw, False, False)
    for matrix in normal.maps:
        assert np.array_equal(matrix, np.eye(3))
    for name in CROSS:
        assert np.allclose(getattr(normal.moments, name), getattr(raw, name), rtol=1e-14)


def test_a_feature_that_is_constant_stays_finite():
    """Its variance is zero: it becomes tiny numbers, and no division by zero."""
    f, g = features(4, has_constant=True)
    f[:, 2] = 5.0
    normal = normalise(moments_of(f, g), True, True)
    assert all(np.isfinite(getattr(normal.moments, name)).all() for name in CROSS)
    assert np.isfinite(normal.svals).all()


def test_numbers_for_the_model_are_tensors():
    normal = normalise(moments_of(*features(5, has_constant=True)), True, True)
    for tensor, array in zip(normal.as_tensors(), (normal.mean, normal.scale, normal.svals), strict=True):
        assert np.array_equal(tensor.numpy(), array)
    assert normalise(moments_of(*features(5)), False, False).as_tensors()[2] is None
