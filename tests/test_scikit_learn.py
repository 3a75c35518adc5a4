"""scikit-learn's own checks, searches, pipelines and tables of columns."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import koopman_lora as kl
from koopman_lora.systems import NoisyRotation

pytestmark = pytest.mark.any_processor

SMALL = {"n_modes": 3, "hidden_dims": (8,), "n_epochs": 1}
RUNS = list(NoisyRotation().simulate(n_trajectories=4, n_steps=300, seed=0).values)
TABLE = pd.DataFrame(RUNS[0], columns=["u", "v"])
# what trajectories make meaningless
EXPECTED = {
    "check_fit1d": "a one-dimensional array is a series of scalar states",
    "check_transformer_data_not_an_array": "a list is a list of trajectories, never the rows of one",
    "check_sample_weight_equivalence_on_dense_data": "rows follow one another: repeated ones are another trajectory",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [kl.KoopmanLoRA(n_modes=2, hidden_dims=(4,), n_epochs=1, batch_size=8)], expected_failed_checks=lambda _: EXPECTED
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [kl.NeuralSVD(n_modes=1)],
    expected_failed_checks=lambda _: {
        "check_complex_data": "complex matrices are welcome",
        "check_n_features_in_after_fitting": "a matrix to follow must have the whole shape, and our error says so",
    },
)
def test_scikit_learn_checks_of_a_matrix(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_transform_gives_the_left_singular_functions():
    estimator = kl.KoopmanLoRA(**SMALL).fit(RUNS)
    assert np.array_equal(estimator.transform(RUNS[1]), estimator.singular_functions(RUNS[1]))
    several = estimator.transform(RUNS)
    assert [len(part) for part in several] == [300] * 4
    assert np.array_equal(several[1], estimator.transform(RUNS[1]))
    single = kl.KoopmanLoRA(**SMALL)
    assert np.array_equal(single.fit_transform(RUNS[0]), single.singular_functions(RUNS[0]))


@pytest.mark.slow
def test_the_score_is_vamp_e_of_pairs_that_nothing_was_fitted_to():
    estimator = kl.KoopmanLoRA(**SMALL).fit(RUNS[:3])
    assert estimator.score(RUNS[3:]) == estimator.applied_to(RUNS[3:]).scores().vamp_e
    noise = np.random.default_rng(0).normal(size=(3000, 2))
    assert estimator.score(noise) < estimator.score(RUNS[3:])


@pytest.mark.slow
def test_columns_have_names_in_and_out():
    estimator = kl.KoopmanLoRA(**SMALL).fit(TABLE)
    assert estimator.feature_names_in_.tolist() == ["u", "v"]
    assert estimator.pairs_.coordinate_names == ("u", "v")
    assert estimator.get_feature_names_out().tolist() == ["mode 1", "mode 2", "mode 3"]
    table = estimator.set_output(transform="pandas").transform(TABLE)
    assert table.columns.tolist() == ["mode 1", "mode 2", "mode 3"]
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(TABLE[["v", "u"]])
    assert not hasattr(estimator.fit(RUNS), "feature_names_in_")


@pytest.mark.slow
def test_images_have_no_columns():
    images = np.random.default_rng(0).normal(size=(80, 8, 8))
    estimator = kl.KoopmanLoRA(n_modes=2, n_epochs=1, batch_size=32)
    assert estimator.fit_transform(images).shape == (80, 2)
    assert not hasattr(estimator, "n_features_in_")


@pytest.mark.slow
def test_in_a_pipeline_in_any_place():
    pipeline = make_pipeline(StandardScaler(), kl.KoopmanLoRA(**SMALL), Ridge())
    target = RUNS[0][:, 0]
    assert pipeline.fit(RUNS[0], target).predict(RUNS[1]).shape == (300,)
    last = make_pipeline(StandardScaler(), kl.KoopmanLoRA(**SMALL)).fit(RUNS[0])
    scaled = StandardScaler().fit(RUNS[0]).transform(RUNS[1])
    assert last.score(RUNS[1]) == last[-1].score(scaled)


@pytest.mark.slow
def test_a_search_over_whole_trajectories():
    search = GridSearchCV(kl.KoopmanLoRA(**SMALL), {"n_modes": [2, 3]}, cv=kl.TrajectoryFolds(2)).fit(RUNS)
    assert search.best_params_ == {"n_modes": 3}  # a rotation: cosine and sine
    by_hand = kl.KoopmanLoRA(**SMALL).fit([RUNS[i] for i in next(iter(kl.TrajectoryFolds(2).split(RUNS)))[0]])
    test = [RUNS[i] for i in next(iter(kl.TrajectoryFolds(2).split(RUNS)))[1]]
    assert search.cv_results_["split0_test_score"][1] == pytest.approx(by_hand.score(test))
    parts = kl.cut_trajectory(RUNS[0], 3)
    assert len(cross_val_score(kl.KoopmanLoRA(**SMALL), parts, cv=kl.TrajectoryFolds(3))) == 3


def test_folds_share_no_trajectory_and_are_of_nearly_equal_size():
    rng = np.random.default_rng(0)
    runs = [np.zeros((n, 1)) for n in rng.integers(10, 50, size=23)]
    seen = []
    for training, test in kl.TrajectoryFolds(4).split(runs):
        assert not set(training) & set(test)
        assert len(training) + len(test) == 23
        assert abs(sum(len(runs[i]) for i in test) - sum(map(len, runs)) / 4) < 25
        seen += test.tolist()
    assert sorted(seen) == list(range(23))


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda: kl.TrajectoryFolds(1), ValueError, "n_splits must be at least 2; got 1"),
        (lambda: next(kl.TrajectoryFolds(2).split(RUNS[0])), TypeError, "X must be a list of trajectories"),
        (
            lambda: next(kl.TrajectoryFolds(2).split([*RUNS, None])),
            TypeError,
            r"X must hold trajectories, .*X\[4\] is None",
        ),
        (lambda: next(kl.TrajectoryFolds(9).split(RUNS)), ValueError, "n_splits=9 is more than the 4 trajectories"),
        (lambda: kl.cut_trajectory(3.0, 2), TypeError, "x must be one trajectory"),
        (lambda: kl.cut_trajectory(np.array(3.0), 2), TypeError, "x must be one trajectory, .* a single number"),
        (lambda: kl.cut_trajectory(RUNS[0], 0), ValueError, "n_parts must be positive; got 0"),
        (lambda: kl.cut_trajectory(RUNS[0], 301), ValueError, "n_parts=301 is more than the 300 frames"),
    ],
)
def test_folds_that_cannot_be(ask, error, message):
    with pytest.raises(error, match=message):
        ask()
