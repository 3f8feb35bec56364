"""Measures that a mean over batches would get wrong."""

import keras
from keras import ops


class Perplexity(keras.metrics.Metric):
    """exp(sum of the tokens' losses / number of tokens), the same whatever the batches.

    Takes token ids (...) and logits (..., V), over a natural logarithm. `sample_weight` (...) leaves padding out: it
    is 0 there, and the same for all tokens that count. In `compile` it belongs into `weighted_metrics`, or Keras keeps
    the weights from it. Without a single token it is 1, the exponential of no loss at all.
    """

    def __init__(self, name="perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        losses = keras.losses.sparse_categorical_crossentropy(y_true, ops.cast(y_pred, self.dtype), from_logits=True)
        weights = ops.ones_like(losses) if sample_weight is None else ops.cast(sample_weight, self.dtype)
        self.total.assign_add(ops.sum(losses * weights))
        self.count.assign_add(ops.sum(weights))

    def result(self):
        return ops.exp(ops.divide_no_nan(self.total, self.count))
