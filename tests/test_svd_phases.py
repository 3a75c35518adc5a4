"""Phase rules do what they say and never change the reconstruction."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from known_matrices import normal

from koopman_lora.svd.phases import fix_phases


@given(
    rule=st.sampled_from(["max", "sigma", "reference"]),
    is_complex=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_phase_rules_never_change_the_reconstruction(rule, is_complex, seed):
    rng = np.random.default_rng(seed)
    U, Vh, s = normal(rng, 5, 3, is_complex=is_complex), normal(rng, 3, 4, is_complex=is_complex), normal(rng, 3)
    reference = normal(rng, 5, 3, is_complex=is_complex)
    turned_U, values, turned_Vh = fix_phases(U, s, Vh, rule, reference)
    np.testing.assert_allclose((turned_U * values) @ turned_Vh, (U * s) @ Vh, atol=1e-12)
    assert np.isrealobj(values)
    assert (values >= 0).all()
    if rule == "max":
        largest = turned_U[np.abs(turned_U).argmax(0), np.arange(3)]
        np.testing.assert_allclose(largest, np.abs(largest), atol=1e-12)
    elif rule == "reference":
        overlap = np.sum(reference.conj() * turned_U, axis=0)
        np.testing.assert_allclose(overlap, np.abs(overlap), atol=1e-12)
    else:
        np.testing.assert_array_equal(turned_U, U)


def test_the_phase_of_ties_is_decided_by_the_first():
    U = np.array([[1.0], [-1.0 - 1e-9]]) / 2**0.5
    assert fix_phases(U, np.ones(1), np.ones((1, 1)), "max")[0][0, 0] > 0
