"""`common.metrics` against plain NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import metrics


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_means_are_those_of_all_tokens_whatever_the_batch_size(batch_size):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20, 6, 11)).astype("float32") * 3
    tokens = generator.integers(0, 11, size=(20, 6))
    mask = np.arange(6) < generator.integers(1, 7, size=(20, 1))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    expected = np.exp(losses[mask].sum() / mask.sum())

    right = (logits.argmax(axis=-1) == tokens)[mask].mean()
    accuracy = metrics.TokenMean(keras.metrics.sparse_categorical_accuracy, "accuracy")
    metric = metrics.Perplexity()
    for start in range(0, 20, batch_size):
        longest = mask[start : start + batch_size].sum(axis=1).max()  # As bucketed batches are cut.
        part = slice(start, start + batch_size), slice(longest)
        for each in (metric, accuracy):
            each.update_state(tokens[part], logits[part], sample_weight=mask[part])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    assert float(accuracy.result()) == pytest.approx(right, rel=1e-5)

    unmasked = metrics.Perplexity()
    unmasked.update_state(tokens, logits)
    assert float(unmasked.result()) == pytest.approx(np.exp(losses.mean()), rel=1e-5)


def test_multiply_adds_are_those_of_convolutions_and_dense_layers_at_every_place():
    images = keras.Input((8, 6, 3))
    hidden = keras.layers.Conv2D(5, 3, strides=2, padding="same")(images)  # (B, 4, 3, 5)
    hidden = keras.layers.BatchNormalization()(hidden)
    model = keras.Model(images, keras.layers.Dense(7)(keras.layers.Flatten()(hidden)))
    assert metrics.multiply_adds(model.layers) == 4 * 3 * (3 * 3 * 3 * 5) + 4 * 3 * 5 * 7


def test_the_speed_of_training_counts_matrices_and_attention_and_a_backward_pass_that_costs_twice(monkeypatch):
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(9, 6)(tokens)
    hidden = hidden + keras.layers.MultiHeadAttention(2, 3, value_dim=2)(hidden, hidden)
    hidden = keras.layers.LayerNormalization()(hidden)
    model = keras.Model(tokens, keras.layers.Dense(9)(hidden))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rows = np.zeros((7, 5), "int32")
    batches = tf.data.Dataset.from_tensor_slices((rows, rows, np.ones(rows.shape))).batch(4)
    clock = iter([1.0, 3.0, 3.5])
    monkeypatch.setattr(metrics.time, "process_time", lambda: next(clock))
    per_token = 6 * 6 * 2 + 6 * 4 + 4 * 6 + 6 * 9 + 5 * 2 * (3 + 2)
    expected = 3 * per_token * 7 * 5 / 2.0 / 1e9, 16 * 1024**3 / 0.5 / 1e9
    assert metrics.training_speed(model, batches) == pytest.approx(expected)


def test_smoothed_cross_entropy_is_that_of_smoothed_one_hot_labels():
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(5, size=(2, 3)), generator.normal(size=(2, 3, 5)).astype("float32")
    expected = keras.losses.categorical_crossentropy(np.eye(5)[labels], logits, from_logits=True, label_smoothing=0.2)
    found = metrics.SmoothedCrossEntropy(0.2)(labels, logits)
    np.testing.assert_allclose(found, np.sum(expected), rtol=1e-5)
