import numpy as np
import pytest
from pictures import chain_results

from koopman_lora.plots import plot_network


def test_network_shows_every_rate():
    model = chain_results()["model"]
    ax = plot_network(model)
    shown = {t.get_text() for t in ax.texts}
    rates = model.rates.values
    assert {f"{rate:.2g}" for rate in rates[rates > 0]} <= shown
    assert "1/ns" in ax.get_title()


def test_two_states_stand_in_the_middle():
    two = chain_results()["model"].isel(state=slice(2), state_next=slice(2))
    ax = plot_network(two)
    places = [c.get_offsets()[0] for c in ax.collections]
    assert np.allclose(places, [[0.5, 0.85], [0.5, 0.15]])


def test_positions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"positions must have shape \(3, 2\); got \(2, 2\)"):
        plot_network(chain_results()["model"], positions=np.zeros((2, 2)))
