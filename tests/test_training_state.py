"""A run that was killed ends, resumed, with the same bits as any other; Ctrl-C leaves a model that can be used."""

import contextlib
import signal
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import koopman_lora as kl
from koopman_lora import fitted, refinement, training_loop
from koopman_lora.checkpoints import NEWEST, PREVIOUS, Checkpoints
from koopman_lora.encoders import MLP
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.surroundings import seeded
from koopman_lora.training_loop import TrainingLoop
from koopman_lora.training_options import TrainingOptions

STATES = kl.systems.NoisyRotation(omega=0.7, noise=0.4).simulate(n_trajectories=2, n_steps=601, seed=1)
PAIRS = kl.lagged_pairs(STATES)
SPLIT = kl.split_pairs(PAIRS)
N_EPOCHS, STEPS = 4, 4  # of 256 of some thousand pairs


class Killed(BaseException):
    """What no code of ours catches."""


@contextlib.contextmanager
def killed_after(n_saves, monkeypatch):
    """The run ends with its so manieth checkpoint, as if the process had been killed."""
    save, done = Checkpoints.save, []

    def save_and_die(self, state):
        save(self, state)
        done.append(state)
        if len(done) == n_saves:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            yield


def own(make):
    def model():
        with seeded(0):
            return kl.KoopmanLoRAModel.from_encoders(2, 4, make(), make(), learn_svals=True, has_centering=True)

    return model


def standard(**options):
    def model():
        with seeded(0):
            return kl.KoopmanLoRAModel(2, 4, **{"hidden_dims": (8, 6, 5)} | options)

    return model


CALIBRATED = standard(learn_svals=True, has_centering=True)
CASES = {
    "plain": (standard(), {}),
    "default": (CALIBRATED, {}),
    "muon": (CALIBRATED, {"will_refine": True}),
    "one encoder": (standard(shared_encoder=True), {"weight_decay": 0.1}),
    "batch norm": (standard(use_batchnorm=True), {"gradient_clip": 0.5}),
    "dropout": (own(lambda: nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 3))), {}),
    "double": (CALIBRATED, {"precision": "64-true"}),
    "mixed": (CALIBRATED, {"precision": "bf16-mixed"}),
    "early": (CALIBRATED, {"learning_rate": 0.3, "patience": 1}),
    "complex": (own(lambda: nn.Sequential(MLP(2, 3, (6,)), nn.Linear(3, 3), Complex())), {}),
}


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.tensor([1.0, 1j, 0.5 + 0.5j]))

    def forward(self, x):
        return (x * self.phase).real + x


def train(model, split=SPLIT, n_epochs=N_EPOCHS, **options):
    return kl.fit(model, split, n_epochs=n_epochs, options=TrainingOptions(**options), progress=False)


def assert_same(model, result, other_model, other_result):
    found = other_model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, found[name]), name
    assert result.best_epoch == other_result.best_epoch
    assert result.stop_reason == other_result.stop_reason
    assert set(result.history) == set(other_result.history)
    for name in result.history:
        np.testing.assert_array_equal(result.history[name], other_result.history[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    """Killed after the first checkpoint, within an epoch, at its end, and once more after it was resumed."""
    if name == "muon":
        monkeypatch.setattr(training_loop, "PLENTY_OF_PAIRS", 100)
    make, options = CASES[name]
    model = make()
    result = train(model, **options)
    for n_saves in (1, 3, 1 + STEPS):
        folder = tmp_path / str(n_saves)
        kept = options | {"checkpoint": folder, "checkpoint_every": 0.0}
        with killed_after(n_saves, monkeypatch):
            train(make(), **kept)
        with killed_after(3, monkeypatch):
            train(make(), **kept, resume=True)
        torch.manual_seed(77)  # nothing hangs on the numbers of another process
        resumed = make()
        again = train(resumed, **kept, resume=True)
        assert_same(model, result, resumed, again)
        # and once it is done it is not done again
        with monkeypatch.context() as patch:
            patch.setattr(TrainingLoop, "_step", lambda *_: pytest.fail("trained"))
            done = make()
            assert_same(model, result, done, train(done, **kept, resume=True))


def test_pairs_both_ways_and_none_held_out(tmp_path, monkeypatch):
    split = kl.split_pairs(PAIRS.both_ways(), 0)
    model, resumed = (standard(shared_encoder=True)() for _ in "ab")
    kept = {"checkpoint": tmp_path, "checkpoint_every": 0}
    with killed_after(6, monkeypatch):
        train(standard(shared_encoder=True)(), split, **kept)
    assert_same(model, train(model, split), resumed, train(resumed, split, **kept, resume=True))


def test_a_damaged_newest_state_costs_a_step_and_no_bit(tmp_path, monkeypatch):
    kept = {"checkpoint": tmp_path, "checkpoint_every": 0}
    with killed_after(7, monkeypatch):
        train(CALIBRATED(), **kept)
    (tmp_path / NEWEST).write_bytes((tmp_path / NEWEST).read_bytes()[:-9])
    model, resumed = CALIBRATED(), CALIBRATED()
    with pytest.warns(UserWarning, match=f"The one before it, '.*{PREVIOUS}', is used"):
        again = train(resumed, **kept, resume=True)
    assert_same(model, train(model), resumed, again)


def test_a_loss_with_numbers_of_its_own_goes_on_with_them(tmp_path, monkeypatch):
    class Growing(NestedLoRALoss):
        def __init__(self):
            super().__init__(4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, f, g, svals=None):
            self.calls += 1
            return super().forward(f, g, svals) * (1 + self.calls / 10)

    def run(model, **options):
        return kl.fit(model, SPLIT, loss=Growing(), n_epochs=3, options=TrainingOptions(**options), progress=False)

    kept = {"checkpoint": tmp_path, "checkpoint_every": 0}
    with killed_after(6, monkeypatch):
        run(standard()(), **kept)
    model, resumed = standard()(), standard()()
    assert_same(model, run(model), resumed, run(resumed, **kept, resume=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is 0.01 there and 0.001 here"),
        ({"n_epochs": 9}, "n_epochs is 4 there and 9 here"),
        ({"split": kl.split_pairs(PAIRS, seed=5)}, "of another fit: held-out pairs differ"),
        ({"split": kl.split_pairs(kl.lagged_pairs(2 * STATES))}, "of another fit: data differ"),
        (
            {"model": standard(hidden_dims=(8, 6, 4))()},
            "of another fit: encoders differ; weights differ|weights differ",
        ),
        ({"model": standard(activation="Tanh")()}, "encoders differ"),
        ({"loss": NestedLoRALoss(4, "seq")}, "of another fit: loss differ"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused_by_what_differs(tmp_path, change, message):
    options = TrainingOptions(checkpoint=tmp_path, checkpoint_every=1e6)
    kl.fit(standard()(), SPLIT, n_epochs=4, options=options)
    other = {"learning_rate": change.pop("learning_rate")} if "learning_rate" in change else {}
    options = TrainingOptions(checkpoint=tmp_path, resume=True, **other)
    arguments = {"model": standard()(), "pairs": SPLIT, "n_epochs": 4} | change
    arguments["pairs"] = arguments.pop("split", arguments["pairs"])
    before = {name: value.clone() for name, value in arguments["model"].state_dict().items()}
    with pytest.raises(ValueError, match=message):
        kl.fit(options=options, **arguments)
    assert all(torch.equal(before[name], value) for name, value in arguments["model"].state_dict().items())


def test_options_of_checkpoints_are_checked():
    with pytest.raises(ValueError, match="resume=True needs the folder that the fit was kept in"):
        TrainingOptions(resume=True)
    with pytest.raises(ValueError, match="checkpoint_every must not be negative; got -1"):
        TrainingOptions(checkpoint_every=-1)
    with pytest.raises(TypeError, match="checkpoint must be a path; got 3"):
        TrainingOptions(checkpoint=3)


def test_a_run_that_was_kept_is_not_started_over(tmp_path):
    train(standard()(), n_epochs=1, checkpoint=tmp_path)
    with pytest.raises(FileExistsError, match="is of an earlier fit; go on with it by resume=True"):
        train(standard()(), n_epochs=1, checkpoint=tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(TrainingLoop, "_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(OSError, match=r"checkpoint '.*' cannot be written"):
        train(standard()(), checkpoint=tmp_path / "file" / "folder")


def test_a_disk_that_fills_up_costs_no_training(tmp_path, monkeypatch):
    model, other = standard()(), standard()()
    save, calls = Checkpoints.save, []

    def save_once(self, state):
        calls.append(state)
        if len(calls) > 1:
            raise OSError("checkpoint 'here' cannot be written: full.")
        save(self, state)

    monkeypatch.setattr(Checkpoints, "save", save_once)
    with pytest.warns(UserWarning, match="full. The training goes on; the older checkpoint stays"):
        result = train(model, checkpoint=tmp_path, checkpoint_every=0)
    assert_same(model, result, other, train(other))


# ---- the estimator ---------------------------------------------------------------------------------------------------


def estimator(folder=None, **options):
    settings = {"hidden_dims": (8, 6, 5), "n_epochs": 3, "checkpoint": folder, "checkpoint_every": 0, "progress": False}
    return kl.KoopmanLoRA(4, **settings | options)


def assert_same_fit(one, other):
    assert_same(one.model_, one.training_, other.model_, other.training_)
    xr_equal = one.spectrum_.drop_attrs().equals(other.spectrum_.drop_attrs())
    assert xr_equal
    assert str(one.summary()) == str(other.summary())


def steps_of(run, monkeypatch):
    """How many steps are done in `run`."""
    step, done = TrainingLoop._step, []

    def count(self, *batch):
        done.append(self.seed)
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", count)
        run()
    return done


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_kill_in_the_refinement_repeats_no_training(tmp_path, monkeypatch):
    def die(*_, **__):
        raise Killed

    monkeypatch.setattr(refinement, "ERRORS_TO_TELL", 0.0)  # no further fits, which are of the refinement
    with monkeypatch.context() as patch:
        patch.setattr(fitted, "rewrite_heads", die)
        with pytest.raises(Killed):
            estimator(tmp_path).fit(STATES)
    resumed = estimator(tmp_path)
    assert steps_of(lambda: resumed.fit(STATES, resume=True), monkeypatch) == []
    assert_same_fit(estimator().fit(STATES), resumed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_several_fits_those_that_are_done_are_not_repeated(tmp_path, monkeypatch):
    n_steps = 3 * STEPS
    with killed_after((n_steps + 2) + 6, monkeypatch):
        estimator(tmp_path, n_fits=3).fit(STATES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0", "seed_1"]
    resumed = estimator(tmp_path, n_fits=3)
    done = steps_of(lambda: resumed.fit(STATES, resume=True), monkeypatch)
    assert (done.count(0), done.count(1), done.count(2)) == (0, n_steps - 5, n_steps)
    assert_same_fit(estimator(n_fits=3).fit(STATES), resumed)


def test_a_clone_for_other_data_keeps_and_logs_nothing(tmp_path):
    from sklearn.base import clone

    twin = clone(estimator(tmp_path, log_to=str(tmp_path), seed=3))
    assert (twin.checkpoint, twin.log_to, twin.seed, twin.hidden_dims) == (None, None, 3, (8, 6, 5))


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_in(step, monkeypatch, number=signal.SIGINT, seed=0):
    """The signal comes in the middle of that step."""
    whole, done = TrainingLoop._step, []

    def step_with_signal(self, *batch):
        if self.seed == seed:
            done.append(self)
            if len(done) == step:
                signal.raise_signal(number)
        return whole(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", step_with_signal)
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2 * STEPS, 2 * STEPS + 2])
def test_an_interrupted_fit_is_as_good_as_it_got_and_goes_on_with_the_same_bits(tmp_path, monkeypatch, step, number):
    model, whole = CALIBRATED(), CALIBRATED()
    kept = {"checkpoint": tmp_path, "checkpoint_every": 1e6}
    text = rf"interrupted \({number.name}\) after {step // STEPS} of {N_EPOCHS} epochs; the best state so far"
    text += ", of epoch [123], is used. The same fit with resume=True goes on from checkpoint '.*'"
    with interrupted_in(step, monkeypatch, number), pytest.warns(UserWarning, match=text) as caught:
        result = train(model, **kept)
    assert caught[0].filename == __file__
    assert result.stop_reason == "interrupted"
    assert result.history.sizes["epoch"] == max(1, step // STEPS)
    features = model.f(PAIRS.x)  # calibrated, and finite
    assert torch.isfinite(features).all()
    if step > STEPS:
        shorter = result.history.held_out_vamp_2
        expected = train(whole).history.held_out_vamp_2[: len(shorter)]
        np.testing.assert_array_equal(shorter, expected)
    other, resumed = CALIBRATED(), CALIBRATED()
    assert_same(other, train(other), resumed, train(resumed, **kept, resume=True))
    assert train(model, **kept, resume=True).stop_reason == "finished"  # the same object, too


def test_without_a_folder_an_interruption_says_what_to_do_next_time(monkeypatch):
    with interrupted_in(3, monkeypatch), pytest.warns(UserWarning, match=r"cannot go on: give checkpoint='folder'"):
        assert train(standard()()).finding.name == "interrupted"


def test_a_second_one_stops_at_once(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with interrupted_in(3, monkeypatch), interrupted_in(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(standard()())
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("n_fits", [1, 3])
def test_an_interrupted_estimator_is_refined_and_tells(tmp_path, monkeypatch, n_fits):
    interrupted = estimator(tmp_path, n_fits=n_fits)
    with interrupted_in(6, monkeypatch, seed=n_fits // 2), pytest.warns(UserWarning, match="training was interrupted"):
        interrupted.fit(STATES)
    assert interrupted.refinement_ is not None
    assert len(interrupted.spectrum_.mode) == 4
    assert interrupted.summary().findings[0].name == "interrupted"
    assert len(list(tmp_path.iterdir())) == 2  # two files, or two fits: the third was not begun
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_fit(estimator(n_fits=n_fits).fit(STATES), interrupted.fit(STATES, resume=True))


def test_an_interruption_before_the_loss_breaks_is_no_error(monkeypatch):
    class Breaking(NestedLoRALoss):
        def forward(self, f, g, svals=None):
            return super().forward(f, g, svals) * float("nan")

    with interrupted_in(1, monkeypatch), pytest.raises(NonFiniteLossError):  # there is no state to use
        kl.fit(standard()(), SPLIT, loss=Breaking(4), n_epochs=2)
