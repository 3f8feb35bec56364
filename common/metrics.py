"""Means over tokens, which a mean over batches would get wrong."""

import keras
from keras import ops


class TokenMean(keras.metrics.Mean):
    """Mean of `measure(y_true, y_pred)` (B, T) over all tokens, the same whatever the batches, and 0 without any.

    `sample_weight` (B, T), 0 on padding and otherwise the same, reaches only the `weighted_metrics` of `compile`.
    """

    def __init__(self, measure, name):
        super().__init__(name=name)
        self.measure = measure

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = self.measure(y_true, y_pred)
        weights = ops.ones_like(values) if sample_weight is None else sample_weight
        # As one row: Keras divides the sum over every other axis by its padded length.
        super().update_state(ops.reshape(values, (-1,)), ops.reshape(weights, (-1,)))


class Perplexity(TokenMean):
    """exp(mean cross-entropy of the tokens), from token ids (B, T) and logits (B, T, V); natural logarithm."""

    def __init__(self, name="perplexity"):
        super().__init__(keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None), name)

    def result(self):
        return ops.exp(super().result())
