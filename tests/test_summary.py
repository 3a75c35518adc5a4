import dataclasses
import html.parser
import re

import numpy as np
import pytest
from torch import nn

import koopman_lora as kl
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.findings import Finding
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.summary import summary_columns
from koopman_lora.survey import lag_findings, transitions_seen
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, NoisyLogisticMap, NoisyRotation
from koopman_lora.verdicts import _is_wide

CHAIN = FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)
# a fast coordinate that follows a slow one, which nobody sees: longer lags show slower decay
HIDDEN = LinearGaussian(A=[[0.2, 0.3], [0.0, 0.95]], B=[[1.0, 0.0], [0.0, 0.3]])


def fitted(data, n_modes, **options):
    return KoopmanLoRA(n_modes, **{"hidden_dims": (16,), "n_epochs": 3, **options}).fit(data)


def named(estimator):
    return {finding.name: finding.message for finding in estimator.summary().findings}


def jumping(n_stays, length=800, seed=0):
    noise = np.random.default_rng(seed).normal(size=n_stays * length)
    return np.repeat(np.resize([1.0, -1.0], n_stays), length) + 0.3 * noise


@pytest.fixture(scope="module")
def chain():
    """Four states: four functions of them are all there are, and a fifth mode is nothing."""
    return fitted(CHAIN.simulate(n_trajectories=2, n_steps=4000, seed=0), 5)


# ----------------------------------------------------------------------------------------------------------- the table


@pytest.mark.slow
def test_a_clean_fit_has_a_verdict_for_every_mode_and_no_sentence(chain):
    summary = chain.summary()
    assert summary.findings == ()
    assert summary.modes.verdict.values.tolist() == ["exact", "sure", "sure", "sure", "not resolved"]
    exact = CHAIN.spectrum(lag=1, n_modes=4).singular_values
    assert np.abs(summary.modes.sigma.values[:4] - exact).max() < 0.05  # four standard errors
    assert summary.modes.transitions.values[0] == 0
    assert summary.modes.transitions.values[1:4].min() > 100


@pytest.mark.parametrize(("omega", "column"), [(0.5, "period (s)"), (0.0, None)])
def test_a_mode_that_turns_has_its_period(omega, column):
    """The rotation turns by omega every .25 s; without, all eigenvalues of so simple a fit are real."""
    data = NoisyRotation(omega=omega, noise=0.1).simulate(n_trajectories=2, n_steps=2000, seed=0)
    modes = fitted(list(data.values), 3, dt=0.25, time_unit="s", reversible=omega == 0).summary()
    shown = summary_columns(modes)
    assert [name for name in shown if "period" in name] == ([column] if column else [])
    if column:
        np.testing.assert_allclose(modes.modes.periods, [np.inf, *[0.25 * 2 * np.pi / omega] * 2], rtol=0.02)
        assert shown[column] == ["-", *[f"{period:.4g}" for period in modes.modes.periods.values[1:]]]
        assert modes.modes.periods.attrs["units"] == "s"


def test_its_numbers_are_those_of_the_other_doors(chain):
    modes, intervals, spectrum = chain.summary().modes, chain.intervals(), chain.spectrum_
    np.testing.assert_array_equal(modes.sigma, spectrum.canonical_singular_values)
    np.testing.assert_array_equal(modes.sigma_interval, intervals.canonical_singular_values_interval)
    np.testing.assert_array_equal(modes.sigma_held_out, chain.diagnose().canonical_held_out)
    bounds = dict(zip(spectrum.eigenvalues.values.tolist(), intervals.timescales_interval.values.T, strict=True))
    assert sorted(modes.eigenvalues.values.tolist(), key=abs) == sorted(bounds, key=abs)
    for value, own in zip(modes.eigenvalues.values.tolist(), modes.timescales_interval.values.T, strict=True):
        np.testing.assert_array_equal(own, bounds[value])


def test_a_row_pairs_a_sigma_with_the_eigenvalue_of_its_own_function():
    # two coordinates on their own, so that the modes are powers of one, .7^2 of the square of the first between the two
    system = LinearGaussian(A=[[-0.7, 0.0], [0.0, 0.4]], B=[[1.0, 0.0], [0.0, 1.0]])
    modes = fitted(system.simulate(n_steps=20_000, seed=0), 4).summary().modes
    np.testing.assert_allclose(modes.eigenvalues.values.real, [1.0, -0.7, 0.49, 0.4], atol=0.04)
    np.testing.assert_allclose(modes.sigma.values, [1.0, 0.7, 0.49, 0.4], atol=0.04)
    assert modes.own_share.values.min() > 0.9


def test_text_and_html_show_every_mode_and_escape_what_they_show(chain):
    summary = dataclasses.replace(chain.summary(), findings=(Finding("<b>", "a & b"),))
    lines = str(summary).splitlines()
    assert lines[0] == "7998 pairs, 799 of them held out; lag 1 (1 step)"
    assert lines[2].split()[:4] == ["mode", "sigma", "95", "%"]
    assert "left out" not in lines[2]
    assert [line.split()[0] for line in lines[3:8]] == ["1", "2", "3", "4", "5"]
    assert lines[7].endswith("not resolved")
    assert lines[-1] == "- <b>: a & b"
    page = _Balanced()
    page.feed(summary._repr_html_())
    assert page.open == []
    assert page.rows == 1 + 5
    assert "<b>&lt;b&gt;</b>: a &amp; b" in summary._repr_html_()


class _Balanced(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.rows = [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_an_opened_analysis_says_the_same_with_and_without_its_frames(chain, tmp_path):
    folder, data = chain.save(tmp_path / "chain"), CHAIN.simulate(n_trajectories=2, n_steps=4000, seed=0)
    assert str(open_analysis(folder).summary()) == str(chain.summary())
    assert str(open_analysis(folder, data).summary()) == str(chain.summary())


def test_pairs_of_unknown_lag_and_fits_without_held_out_pairs_have_a_summary_too():
    x = CHAIN.simulate(n_steps=2000, seed=1)[0].values
    pairs = KoopmanLoRA(3, hidden_dims=(8,), n_epochs=1, refine=False, held_out=0.0).fit((x[:-1], x[1:]))
    summary = pairs.summary()
    assert "lag unknown" in str(summary)
    assert summary.modes.verdict.values[1:].tolist() == ["not tested"] * 2
    assert summary.number_of_modes is None


# ------------------------------------------------------------------------------------------------- a case a sentence


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_noise_has_no_modes(seed):
    found = named(fitted(np.random.default_rng(seed).normal(size=(2000, 2)), 3, seed=seed))
    assert "no mode but the constant is above noise" in found["no modes"]
    assert "no plateau" not in found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_more_modes_are_asked_for_where_all_are_real(seed):
    found = named(fitted(NoisyRotation().simulate(n_steps=4000, seed=seed), 5, seed=seed))
    assert "n_modes=10" in found["more modes"]
    assert set(found) == {"more modes"}


def test_a_process_without_noise_is_told_since_its_sigma_say_nothing():
    """Of x' = 4 x (1 - x) every sigma is 1, and no eigenvalue but the constant's is near it."""
    x = [0.3123]
    while len(x) < 3000:
        x.append(3.9999 * x[-1] * (1 - x[-1]))
    found = named(fitted(np.array(x), 3, n_epochs=8))
    assert set(found) == {"deterministic", "not normal"}
    assert "all sigma are 1 within 0.01" in found["deterministic"]


def test_slow_modes_whose_eigenvalues_are_as_near_to_1_are_none_without_noise():
    data = NoisyRotation(omega=0.1, noise=0.05).simulate(n_trajectories=2, n_steps=2000, seed=0)
    estimator = fitted(data, 3)
    assert estimator.summary().modes.sigma.values.min() > 0.99
    assert "deterministic" not in named(estimator)


@pytest.mark.slow
def test_few_transitions_are_counted():
    found = named(fitted(jumping(5), 3))
    assert "4 of mode 2" in found["few transitions"]
    assert "few transitions" not in named(fitted(jumping(50, 80), 3))


@pytest.mark.slow
def test_held_out_pairs_without_a_transition_judge_no_mode():
    estimator = fitted(jumping(5, seed=1), 3, seed=1)
    summary = estimator.summary()
    assert estimator.validation().phi[:, 1].var() < 0.2
    assert summary.modes.verdict.values[1] == "not tested"
    assert re.search(r"hardly show modes? 2\b", named(estimator)["not tested"])
    assert "no modes" not in named(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_timescale_that_grows_with_the_lag_is_told(seed):
    seen, whole = HIDDEN.simulate(2, 5000, seed=seed)[..., :1], HIDDEN.simulate(2, 5000, seed=seed)
    assert "still grows with the lag" in named(fitted(seen, 2, seed=seed))["no plateau"]
    assert "no plateau" not in named(fitted(whole, 3, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_timescale_that_falls_with_the_lag_is_told(seed):
    """Of a point that turns only one coordinate is seen: what is far away after one lag comes back after some."""
    whole = NoisyRotation(omega=0.5, noise=0.1).simulate(2, 3000, seed=seed)
    estimator = fitted(whole[..., :1], 3, seed=seed)
    said = re.search(
        r"falls with the lag: ([\d.]+) at lag 1, ([\d.]+) at lag 2, ([\d.]+) at", named(estimator)["no plateau"]
    )
    scan = estimator.scan_lags(whole[..., :1], [1, 2, 3])
    # another door, which has the last frame of each trajectory as well
    np.testing.assert_allclose([float(time) for time in said.groups()], scan.timescales.values[:, 1], rtol=0.01)
    assert "no plateau" not in named(fitted(whole, 3, seed=seed))


@pytest.mark.slow
def test_the_sentence_about_longer_lags_has_the_numbers_of_the_scan():
    """Of ten functions no eight alone: eigenfunctions of pictures in turn are mixtures of all."""
    data = kl.datasets.load("ordered_digits")
    estimator = fitted(data, 10, hidden_dims=(32,), n_epochs=10)
    said = re.search(r"the lag: ([\d.]+) at lag 1, ([\d.]+) at lag 2, ([\d.]+) at", named(estimator)["no plateau"])
    scan = estimator.scan_lags(data, [1, 2, 3])
    np.testing.assert_allclose([float(time) for time in said.groups()], scan.timescales.values[:, 1], rtol=0.05)


def test_eigenvalues_of_an_operator_that_is_far_from_normal_are_told_of(chain):
    estimator = fitted(NoisyLogisticMap().simulate(4, 1000, seed=0), 4)
    summary = estimator.summary()
    conditions = summary.modes.eigenvalue_condition.values
    np.testing.assert_array_equal(sorted(conditions), sorted(estimator.spectrum_.eigenvalue_condition.values))
    assert conditions[1] > 5
    assert f"{conditions[1]:.0f} (mode 2)" in named(estimator)["not normal"]
    assert chain.summary().modes.eigenvalue_condition.values[:4].max() < 2


def test_an_interval_that_reaches_1_leaves_the_timescale_open():
    bounds = np.array([[0.93, 0.93, 1.0, 0.8, 0.3, 0.5], [1.0, 1 - 1e-12, 1.0, 0.85, 0.35, 0.7]])
    assert _is_wide(bounds).tolist() == [True, True, False, False, False, True]


def test_the_constant_stands_first_where_an_eigenvalue_is_beyond_1():
    grows = 1.001 ** np.arange(2000) + 0.01 * np.random.default_rng(0).normal(size=2000)
    estimator = fitted(grows, 3)
    summary, scan = estimator.summary(), estimator.scan_lags(grows, [1, 2, 3])
    assert abs(estimator.spectrum_.eigenvalues.values[1]) > 1
    np.testing.assert_allclose(estimator.spectrum_.eigenvalues.values[0], 1, rtol=1e-9)
    assert np.isinf(summary.modes.timescales_interval.values[:, 0]).all()
    assert np.isinf(scan.timescales.values[:, 0]).all()


def test_a_mode_whose_held_out_value_may_be_0_is_not_sure(chain):
    modes = chain.summary().modes
    sure = modes.verdict.values == "sure"
    assert sure.sum() == 3
    assert (modes.sigma_held_out > 2 * modes.held_out_error).values[sure].all()


@pytest.mark.parametrize("seed", range(3))
def test_over_fitting_is_told_when_the_fit_ends_and_in_the_summary(seed):
    slow = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    with pytest.warns(UserWarning, match="may be too high; at pairs that were left out"):
        estimator = KoopmanLoRA(6, n_epochs=10, seed=seed).fit(slow.simulate(n_steps=300, seed=seed))
    assert "over-fit" in named(estimator)
    summary = estimator.summary()
    modes, column = summary.modes, summary_columns(summary)["left out"]
    told = np.flatnonzero(modes.verdict.values == "over-fit")
    assert len(told)
    assert all(modes.sigma_left_out.values[told] < modes.sigma.values[told])
    assert all(modes.sigma_left_out <= modes.sigma_held_out)
    assert column == [f"{value:.3f}" for value in modes.sigma_left_out.values]
    listed = ", ".join(f"{modes.sigma_left_out.values[i]:.2f}" for i in told[:4])
    assert f"at pairs that were left out they are {listed}" in named(estimator)["over-fit"]
    assert "left out: the lower of held out and of folds" in str(summary)


def test_values_that_differ_are_told_of_an_unrefined_fit():
    estimator = fitted(CHAIN.simulate(n_steps=4000, seed=0), 4, n_epochs=1, refine=False, learn_svals=False)
    assert "see diagnose()" in named(estimator)["values differ"]
    assert "canonical values agree within" not in str(estimator.summary())


def test_what_is_most_serious_comes_first():
    noise = np.random.default_rng(0).normal(size=(400, 3))
    found = [finding.name for finding in fitted(noise, 4, n_epochs=5, refine=False).summary().findings]
    assert found[0] == "no better than the constant"


@pytest.mark.slow
def test_a_fit_whose_functions_are_confirmed_but_not_their_proportions_is_told_so():
    found = named(fitted(FiniteMarkovChain.with_blocks().simulate(2, 2001, seed=0), 6))
    assert "the functions do correlate there" in found["no better than the constant"]


# ------------------------------------------------------------------------------------------------------- several fits


class _FailsFirst(nn.Module):
    """Not a number at first use, the nested loss afterwards."""

    def __init__(self):
        super().__init__()
        self.loss, self.used = NestedLoRALoss(3), False

    def forward(self, f, g, svals):
        first, self.used = not self.used, True
        return self.loss(f, g, svals) * (float("nan") if first else 1.0)


@pytest.mark.slow
def test_the_best_of_several_fits_is_kept_and_they_agree():
    data = NoisyRotation().simulate(n_steps=3000, seed=0)
    several = fitted(data, 5, n_fits=3, seed=4)
    fits = several.analysis_.fitted.fits
    first = fitted(data, 5, seed=4)
    assert fits.seed.values.tolist() == [4, 5, 6]
    best = int(np.argmax(fits.held_out_vamp_2.values))
    assert several.scores().vamp_2 == fits.held_out_vamp_2.values[best]
    assert fits.held_out_vamp_2.values[0] == first.scores().vamp_2
    summary = several.summary()
    assert summary.modes.agreement.values.min() > 0.9
    assert "3 fits, the best one shown: agreement (mean squared cosine) about modes 2 to 3" in str(summary)


@pytest.mark.slow
def test_a_fit_that_failed_is_named_and_one_that_is_alone_raises():
    data = CHAIN.simulate(n_steps=1000, seed=0)
    several = fitted(data, 3, n_fits=2, seed=7, loss=_FailsFirst())
    assert several.analysis_.fitted.fits.seed.values.tolist() == [8]
    assert "seed 7: " in named(several)["fits failed"]
    with pytest.raises(NonFiniteLossError):
        fitted(data, 3, loss=_FailsFirst())


@pytest.mark.parametrize("n_fits", [0, -1, 1.5])
def test_a_number_of_fits_that_is_none_is_refused(n_fits):
    with pytest.raises(ValueError, match="n_fits"):
        fitted(CHAIN.simulate(n_steps=1000, seed=0), 3, n_fits=n_fits)


@pytest.mark.slow
def test_several_fits_are_saved_with_the_analysis(tmp_path):
    several = fitted(NoisyRotation().simulate(n_steps=1000, seed=0), 3, n_fits=2)
    opened = open_analysis(several.save(tmp_path / "several"))
    assert str(opened.summary()) == str(several.summary())


# -------------------------------------------------------------------------------------------------------- the frames


def test_transitions_are_counted_within_trajectories_and_not_on_the_way():
    values = np.array([1.0, 0.1, 1.0, -0.1, -1.0, -0.9, 1.0, -1.0])[:, None]
    assert transitions_seen(values, np.zeros(8, int)).tolist() == [3]
    assert transitions_seen(values, np.r_[np.zeros(7, int), 1]).tolist() == [2]
    assert transitions_seen(np.full((8, 1), 3.0), np.zeros(8, int)).tolist() == [0]


def test_nothing_is_said_of_longer_lags_where_pairs_do_not_follow_one_another():
    x = HIDDEN.simulate(1, 5000, seed=0)[0].values[:, :1]
    shuffled = np.random.default_rng(0).permutation(4999)
    pairs = lagged_pairs((x[:-1][shuffled], x[1:][shuffled]), lag=1)
    assert lag_findings(pairs.x.numpy(), pairs.x.numpy(), pairs) == []
    unknown = lagged_pairs((x[:-1], x[1:]))
    assert unknown.clock == Clock()
    assert lag_findings(unknown.x.numpy(), unknown.x.numpy(), unknown) == []
