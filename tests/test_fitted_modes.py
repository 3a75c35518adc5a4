import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.fitted_modes import FittedModes
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.systems import FourWellLandscape2D

DATA = FourWellLandscape2D().simulate(n_trajectories=2, n_steps=1000, seed=0)
X = DATA.values.reshape(-1, 2)
WELL = 2 * (X[:, 0] > 0) + (X[:, 1] > 0)


@pytest.fixture(scope="module")
def analysis():
    return KoopmanLoRA(4, hidden_dims=(16, 16), n_epochs=5).fit(DATA).analysis_


def test_a_classifier_of_wells_on_the_slow_modes(analysis):
    scores = cross_val_score(make_pipeline(FittedModes(analysis), LogisticRegression()), X, WELL, cv=3)
    assert scores.min() > 0.9  # 0.25 by chance


@pytest.mark.parametrize("functions", ["left", "right"])
def test_values_are_those_of_the_analysis(functions, analysis):
    values = FittedModes(analysis, [3, 2], functions).transform(X)
    assert np.allclose(values, analysis.singular_functions(X, side=functions)[:, [2, 1]], atol=1e-12)


def test_columns_have_names_for_people_and_for_pandas(analysis):
    transformer = FittedModes(analysis, functions="right")
    assert transformer.get_feature_names_out().tolist() == ["psi_2", "psi_3", "psi_4"]
    pandas = pytest.importorskip("pandas")
    table = transformer.set_output(transform="pandas").fit_transform(pandas.DataFrame(X, columns=["x", "y"]))
    assert list(table.columns) == ["psi_2", "psi_3", "psi_4"]
    assert np.allclose(table, analysis.singular_functions(X, side="right")[:, 1:], atol=1e-12)


def test_a_clone_is_fitted_and_holds_the_same_analysis(analysis):
    transformer = clone(FittedModes(analysis, 2))
    check_is_fitted(transformer)
    assert transformer.analysis is analysis
    assert transformer.n_features_in_ == 2


@pytest.mark.slow
def test_an_analysis_from_a_folder_transforms_as_before(analysis, tmp_path):
    opened = open_analysis(analysis.save(tmp_path / "analysis"))
    assert np.array_equal(FittedModes(opened).transform(X), FittedModes(analysis).transform(X))


def test_modes_that_are_not_there_are_refused_when_it_is_fitted(analysis):
    with pytest.raises(ValueError, match="modes must be different numbers between 2 and 4; got 7"):
        FittedModes(analysis, 7).fit(X)
    with pytest.raises(TypeError, match="analysis must be a KoopmanAnalysis"):
        FittedModes(KoopmanLoRA()).fit(X)


def test_states_of_another_shape_are_refused(analysis):
    with pytest.raises(ValueError, match="must have shape"):
        FittedModes(analysis).transform(X[:, :1])
