"""Logistic regression as a baseline, as a network, and as a start for a network's last layer."""

import keras
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score

from common.linear import as_network, logistic_regression, start_from_regression


def test_logistic_regression_is_the_best_of_all_candidates_and_applies_to_rows_that_are_not_scaled():
    generator = np.random.default_rng(1)
    vocabulary = [f"{first}{second}" for first in "abcdefghi" for second in "abcdefghi"]
    chances = generator.dirichlet(np.full(81, 0.1), 2)  # Of each word, in texts with label 0 or 1, without noise.
    labels = np.arange(400) % 2
    texts = [" ".join(generator.choice(vocabulary, 12, p=0.2 * chances[label] + 0.8 / 81)) for label in labels]
    rows = TfidfVectorizer().fit_transform(texts)
    (rows, known), (labels, known_labels) = (rows[:100], rows[100:]), (labels[:100], labels[100:])
    negative, positive = (1 + (rows.toarray()[labels == label] > 0).sum(axis=0) for label in (0, 1))
    scales = {False: 1.0, True: np.log(positive / positive.sum() / (negative / negative.sum()))}
    scores = {False: [], True: []}
    for strength in (0.1, 100):
        for naive_bayes, scale in scales.items():
            classifier = LogisticRegression(C=strength, solver="liblinear").fit(rows.toarray() * scale, labels)
            scores[naive_bayes].append(classifier.score(known.toarray() * scale, known_labels))
    assert max(scores[False]) < max(scores[True]) and min(scores[False]) < max(scores[False])
    for naive_bayes in scales:
        found = logistic_regression(rows, labels, known, known_labels, (0.1, 100), naive_bayes)
        assert found.score(known, known_labels) == pytest.approx(max(scores[naive_bayes]))


def test_a_measure_that_depends_on_a_rare_class_also_tries_balanced_class_weights():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(600, 1))
    labels = (rows[:, 0] + generator.normal(size=600) > 2).astype(int)  # One in twelve.
    parts = rows[:300], labels[:300], rows[300:], labels[300:]
    recalls = [
        recall_score(labels[300:], logistic_regression(*parts, (1.0,), measure=measure).predict(rows[300:]))
        for measure in (accuracy_score, recall_score)
    ]
    assert recalls[0] < 0.5 < recalls[1]


def test_a_regression_as_a_network_predicts_the_same_probabilities():
    rows = csr_matrix([[0, 2, 0], [1, 0, 0], [0, 0, 3], [1, 1, 0]], dtype="float32")
    regression = LogisticRegression().fit(rows, [0, 1, 1, 0])
    network = as_network(regression, "bag")
    np.testing.assert_allclose(network.predict(rows, verbose=0)[:, 0], regression.predict_proba(rows)[:, 1], rtol=1e-5)
    assert network.name == "bag"


def test_a_classifier_starts_from_the_regression_of_what_its_last_layer_reads():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(300, 3)).astype("float32") * (1, 10, 100)
    labels = (np.sign(rows).sum(axis=1) + generator.normal(size=300) > 0.5).astype(int)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    kernel, *_ = model.get_weights()
    start_from_regression(model, [(rows[:90], labels[:90]), (rows[90:], labels[90:])])
    features = keras.Model(inputs, hidden).predict(rows, verbose=0)
    scaled = features / features.std(axis=0)
    expected = LogisticRegression(C=0.01).fit(scaled, labels).predict_proba(scaled)[:, 1]
    np.testing.assert_allclose(model.predict(rows, verbose=0)[:, 0], expected, atol=1e-3)
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    assert accuracy_score(labels, expected > 0.5) > max(labels.mean(), 1 - labels.mean())
