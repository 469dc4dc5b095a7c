"""CellStateClassifier: what it learns, what it admits, and that it comes back from disk as it was."""

import json

import numpy as np
import pandas as pd
import pytest
from _states import states

import diffvae as dv
from diffvae.model import Evaluation
from diffvae.model._classifier import evaluate, expected_calibration_error, fit_temperature, stratified
from diffvae.pp import DataError


def test_it_beats_the_baseline_on_held_out_cells_and_says_so():
    _, _, classifier = states()
    evaluation = classifier.evaluation
    assert evaluation.accuracy > evaluation.baseline + 0.3
    assert evaluation.confusion.to_numpy().sum() == evaluation.per_type["n_test"].sum() == 80
    assert str(evaluation).startswith(f"Accuracy {evaluation.accuracy:.3f} on 80 held-out cells")


def test_permuted_labels_are_no_better_than_the_baseline():
    adata = states()[0].copy()
    adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"])
    evaluation = dv.model.CellStateClassifier((16,)).train(adata, "cell_type", max_epochs=20, progress=False).evaluation
    assert evaluation.accuracy < evaluation.baseline + 0.1


def test_progenitors_are_a_class():
    assert "stem" in states()[2].classes


def test_evaluation_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]))
    found = evaluate(logits, np.array([0, 0, 1, 1]), ["a", "b"], 1.0, np.array([5, 3]))
    assert found.accuracy == 0.75
    assert found.baseline == 0.5
    assert found.confusion.to_numpy().tolist() == [[2, 0], [1, 1]]
    assert found.per_type["recall"].tolist() == [1.0, 0.5]
    assert found.per_type["precision"].tolist() == [2 / 3, 1.0]
    assert found.calibration_error == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4)


def test_a_type_that_is_never_called_is_valid_json_and_comes_back():
    found = evaluate(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ["a", "b"], 1.0, np.array([5, 3]))
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))
    pd.testing.assert_frame_equal(again.per_type, found.per_type)


def test_temperature_undoes_a_known_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    codes = np.array([rng.choice(3, p=row) for row in p])
    assert fit_temperature(4 * logits, codes) == pytest.approx(4, rel=0.1)
    assert expected_calibration_error(p, codes) < 0.03


def test_split_is_within_types_and_disjoint():
    codes = np.repeat([0, 1, -1], [50, 20, 7])
    parts = stratified(codes, np.random.default_rng(0))
    assert [len(p) for p in parts] == [49, 7, 14]
    assert len(np.unique(np.concatenate(parts))) == 70
    assert [np.bincount(codes[p]).tolist() for p in parts] == [[35, 14], [5, 2], [10, 4]]


def test_it_abstains_below_the_probability():
    _, _, classifier = states()
    probability = classifier.predict_proba()
    called = classifier.predict(min_probability=0.9)
    sure = probability.max(1) >= 0.9
    assert 0 < sure.sum() < len(sure)
    assert (called[~sure] == "unassigned").all()
    assert (called[sure] == np.array(classifier.classes)[probability.argmax(1)][sure]).all()
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)


def test_small_and_missing_types_are_left_out_and_named():
    adata = states()[0].copy()
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[:5], labels.iloc[5:9], labels.iloc[9:12] = "rare", None, "unassigned"
    adata.obs["types"] = labels
    classifier = dv.model.CellStateClassifier((8,)).train(adata, "types", max_epochs=1, progress=False)
    assert classifier.dropped == {"rare": 5}
    assert set(classifier.classes) == {"stem", "red", "white"}
    with pytest.raises(DataError, match="'rare' has 5 cells, fewer than the 10 that the classifier needs"):
        classifier.code("rare")


def test_saved_and_loaded_it_is_the_same(tmp_path):
    adata, _, classifier = states()
    classifier.save(tmp_path / "c")
    again = dv.model.CellStateClassifier.load(tmp_path / "c")
    np.testing.assert_array_equal(again.predict_proba(adata), classifier.predict_proba(adata))
    assert again.classes == classifier.classes
    assert again.get_params() == classifier.get_params() | {"hidden": (32, 16)}
    pd.testing.assert_frame_equal(again.evaluation.confusion, classifier.evaluation.confusion)
    assert str(again.evaluation) == str(classifier.evaluation)


def test_same_seed_same_probabilities():
    adata = states()[0]
    a, b, c = (
        dv.model.CellStateClassifier((8,))
        .train(adata, "cell_type", max_epochs=2, rng=r, progress=False)
        .predict_proba()
        for r in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


@pytest.mark.parametrize(
    ("groupby", "message"),
    [
        ("nothing", r"adata.obs\['nothing'\] is missing; the columns are: "),
        ("one", r"adata.obs\['one'\] has 1 types of 10 cells or more, and a classifier needs two"),
    ],
)
def test_labels_that_cannot_be_learnt(groupby, message):
    adata = states()[0].copy()
    adata.obs["one"] = "all"
    with pytest.raises(DataError, match=message):
        dv.model.CellStateClassifier().train(adata, groupby, progress=False)


def test_bad_arguments_and_untrained():
    with pytest.raises(ValueError, match="hidden is"):
        dv.model.CellStateClassifier(())
    with pytest.raises(ValueError, match="min_cells is 3"):
        dv.model.CellStateClassifier(min_cells=3)
    with pytest.raises(RuntimeError, match="This CellStateClassifier is not trained"):
        dv.model.CellStateClassifier().predict()
    with pytest.raises(DataError, match="is not a type of the classifier; its types are red, stem, white"):
        states()[2].code("blue")
    with pytest.raises(DataError, match="the classifier has 120 genes"):
        states()[2].predict_proba(np.zeros((2, 3), np.float32))
