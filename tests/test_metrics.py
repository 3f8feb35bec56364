"""`common.metrics` against plain NumPy."""

import keras
import numpy as np
import pytest

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
