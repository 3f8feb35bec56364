"""Means over all tokens, which differ from a mean over batches, and what an image costs a network."""

import math

import keras
from keras import layers, ops


class TokenMean(keras.metrics.Mean):
    """Mean of `measure(y_true, y_pred)` (B, T) over all tokens, however they are batched; 0 if there are none.

    Keras passes `sample_weight` (B, T), 0 on padding and constant elsewhere, only to `weighted_metrics` of `compile`.
    """

    def __init__(self, measure, name):
        super().__init__(name=name)
        self.measure = measure

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = self.measure(y_true, y_pred)
        weights = ops.ones_like(values) if sample_weight is None else sample_weight
        # Flattened: otherwise Keras averages over the other axes, padding included.
        super().update_state(ops.reshape(values, (-1,)), ops.reshape(weights, (-1,)))


class Perplexity(TokenMean):
    """exp(mean cross-entropy of the tokens), from token ids (B, T) and logits (B, T, V); natural logarithm."""

    def __init__(self, name="perplexity"):
        super().__init__(keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None), name)

    def result(self):
        return ops.exp(super().result())


def multiply_adds(counted):
    """How many products the convolutions and dense layers among `counted` add up for one image."""
    weighted = [layer for layer in counted if isinstance(layer, (layers.Conv2D, layers.Dense))]
    # Each weight is used once at each place of the output; a dense layer's output has only one.
    return sum(math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in weighted)
