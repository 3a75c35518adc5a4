"""The planning page says what its script makes of the recorded measurements."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)
RECORD = json.loads((ROOT / "docs" / "scale.json").read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_record():
    assert (ROOT / "docs" / "scale.md").read_text(encoding="utf-8") == scale.page(RECORD)


def test_a_plan_for_what_was_measured_is_what_was_measured():
    of = RECORD["fits"]["zarr"]
    plan = scale.planned(RECORD, of["n_frames"])
    assert plan["passes"] + plan["training"] == pytest.approx(of["seconds"])
    assert plan["memory"] == of["peak_gb"]
    assert plan["read"] == scale.N_PASSES * of["data_gb"]


def test_ten_times_the_frames_take_ten_times_the_passes():
    once, more = (scale.planned(RECORD, n) for n in (10**8, 10**9))
    assert more["passes"] == pytest.approx(10 * once["passes"])
    assert more["training"] == pytest.approx(10 ** (1 / 6) * once["training"])


def test_fits_to_many_short_trajectories_take_time_linear_in_the_pairs_and_steps():
    per_step, per_pair = scale.rates_of(RECORD["many"])
    assert [m["n_pairs"] for m in RECORD["many"]] == [90_000, 300_000, 900_000, 3_000_000]
    for m in RECORD["many"]:
        assert m["processor_seconds"] == pytest.approx(per_step * m["steps"] + per_pair * m["n_pairs"], rel=0.1)


def test_rates_are_found_of_times_that_follow_them():
    many = [
        {"steps": s, "n_pairs": n, "processor_seconds": 0.03 * s + 2e-4 * n}
        for s, n in ((9, 10), (30, 99), (50, 10**6))
    ]
    assert scale.rates_of(many) == pytest.approx((0.03, 2e-4))
