import numpy as np
import pytest

from koopman_lora.feature_products import _ROWS, feature_products
from koopman_lora.moments import CROSS, DEFINITIONS, EDMD

RNG = np.random.default_rng(0)


def features(n, widths, kinds):
    """Random features of every part; kinds: side -> complex or float."""
    parts = sorted({part for both in DEFINITIONS.values() for part in both})
    values = {part: RNG.normal(size=(n, widths[part[0]])) + 3 for part in parts}
    turned = {part: value * (1 + 1j * RNG.normal(size=value.shape)) for part, value in values.items()}
    return {part: (turned if kinds[part[0]] is complex else values)[part] for part in parts}


def one_by_one(values, shifts, name):
    left, right = (np.insert(values[part] - shifts[part[0]], 0, 1.0, axis=1) for part in DEFINITIONS[name])
    return np.conj(left.T) @ right


@pytest.mark.parametrize("names", [tuple(DEFINITIONS), CROSS, EDMD, ("M_g",), ("C_fg",), ("T_gg", "C_gf")], ids=str)
@pytest.mark.parametrize("kinds", [(float, float), (complex, complex), (complex, float), (float, complex)], ids=str)
@pytest.mark.parametrize("n", [1, 7, 2 * _ROWS + 3])
def test_products_formed_at_once_are_those_formed_one_by_one(names, kinds, n):
    values = features(n, {"f": 4, "g": 3, "h": 2}, {"f": kinds[0], "g": kinds[1], "h": float})
    shifts = {side: values[side, 0].mean(axis=0) for side in "fgh"}
    needed = {part: values[part] for part in values if any(part in DEFINITIONS[name] for name in names)}
    got = feature_products(needed, shifts, names)
    assert list(got) == list(names)
    for name in names:
        wanted = one_by_one(values, shifts, name)
        assert got[name].dtype == wanted.dtype
        assert np.allclose(got[name], wanted, rtol=1e-12, atol=1e-12 * n), name
        assert got[name][0, 0] == n


def test_features_are_read_and_not_changed_and_a_constant_leaves_exact_zeros():
    values = {("f", 0): np.full((10, 2), 0.1, dtype=np.float32), ("g", 1): RNG.normal(size=(10, 2))}
    before = {part: value.copy() for part, value in values.items()}
    got = feature_products(values, {"f": np.float64(np.float32([0.1, 0.1])), "g": np.zeros(2)}, CROSS)
    assert not np.any(got["M_f"][1:])
    assert not np.any(got["T_fg"][1:])
    assert all(np.array_equal(values[part], before[part]) for part in values)
