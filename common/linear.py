"""Logistic regression on features, such as a bag of words: as a baseline, and as the start of fine-tuning."""

import itertools

import keras
import numpy as np
from keras import layers
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from common.data import outputs


def logistic_regression(rows, labels, known_rows, known_labels, strengths, naive_bayes=False, measure=accuracy_score):
    """The logistic regression that is best on the validation rows, `known_rows`, among `strengths`, values of C.

    rows: (N, F) features, such as TF-IDF. labels: (N,), 0 or 1.
    naive_bayes: whether to try each strength a second time with the features scaled by the log of how much more often
        class 1 has them (Wang, Manning: Baselines and Bigrams, 2012, https://aclanthology.org/P12-2018); `rows` must
        then be sparse. The coefficients returned are for features that are not scaled.
    measure: the score that selects one, a function of labels and predicted labels, such as scikit-learn's. For any
        but accuracy, each strength is also tried with class weights that make both classes count the same in total.
    """
    scaled, weights = [(rows, 1.0)], (None,) if measure is accuracy_score else (None, "balanced")
    if naive_bayes:
        negative, positive = (1 + np.asarray((rows[labels == each] > 0).sum(axis=0)) for each in (0, 1))  # (1, F)
        log_ratio = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
        scaled.append((rows.multiply(log_ratio).tocsr(), log_ratio))
    fitted = []
    for candidates, scale in scaled:
        for strength, weight in itertools.product(strengths, weights):
            regression = LogisticRegression(C=strength, class_weight=weight, solver="liblinear")
            fitted.append(regression.fit(candidates, labels))
            fitted[-1].coef_ *= scale  # Now it applies to rows that are not scaled.
    return max(fitted, key=lambda each: measure(known_labels, each.predict(known_rows)))


def as_network(regression, name):
    """A logistic regression as a Keras model: sparse rows (N, F) to the probabilities of class 1 (N, 1)."""
    rows = keras.Input(regression.coef_.shape[1:], sparse=True)
    model = keras.Model(rows, layers.Dense(1, activation="sigmoid")(rows), name=name)
    model.compile(jit_compile=False)  # Products of sparse rows can't be compiled.
    model.set_weights([regression.coef_.T, regression.intercept_])
    return model


def start_from_regression(model, batches, strength=0.01):
    """Sets the last layer of a classifier, a sigmoid, to the logistic regression of the batches' labels on its inputs.

    Starting from this linear probe, fine-tuning distorts the layers below less than from a random last layer: Kumar et
    al., Fine-Tuning can Distort Pretrained Features, 2022, https://arxiv.org/abs/2202.10054. `strength`: the value of
    C, for inputs of unit variance.
    """
    features, labels = outputs(keras.Model(model.input, model.layers[-1].input), batches)
    scale = features.std(axis=0) + 1e-6
    regression = LogisticRegression(C=strength, max_iter=1_000).fit(features / scale, labels)
    model.layers[-1].set_weights([regression.coef_.T / scale[:, None], regression.intercept_])
