"""Means over all tokens, which differ from a mean over batches; what an image or training costs in multiply-adds."""

import math
import time

import keras
import tensorflow as tf
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


class SmoothedCrossEntropy(keras.losses.Loss):
    """Label smoothing for labels (B, T) and logits (B, T, V), without storing smoothed one-hot labels (B, T, V)."""

    def __init__(self, smoothing):
        super().__init__(reduction="sum")  # `teacher_forcing` weights tokens.
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        cross_entropy = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        label_logit = ops.take_along_axis(y_pred, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        return cross_entropy + self.smoothing * (label_logit - ops.mean(y_pred, axis=-1))


def multiply_adds(counted):
    """How many products the convolutions and dense layers among `counted` add up for one image."""
    weighted = [layer for layer in counted if isinstance(layer, (layers.Conv2D, layers.Dense))]
    # Each weight is used once at each place of the output; a dense layer's output has only one.
    return sum(math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in weighted)


def training_speed(model, batches):
    """Multiply-adds per CPU second of training a Transformer and of a matrix product, both in billions.

    model: compiled, reads tokens (B, T), and goes on training; its backward pass has twice as many multiply-adds as its
        forward pass, and those of the optimizer are not counted.
    batches: of (tokens, targets, weights), each (B, T) with the same T.
    """
    shapes = [tokens.shape for tokens, *_ in batches]
    length, count = shapes[0][1], sum(size * length for size, length in shapes)
    per_token = sum(math.prod(each.shape) for each in model.trainable_weights if each.name == "kernel")
    for layer in model.layers:
        if isinstance(layer, layers.MultiHeadAttention):  # Scores, and means of values.
            per_token += length * layer.num_heads * (layer.key_dim + layer.value_dim)
    square = tf.random.normal((1024, 1024))
    times = [time.process_time()]
    model.fit(batches, verbose=0, shuffle=False)
    times.append(time.process_time())
    for _ in range(16):
        square @ square
    times.append(time.process_time())
    training = 3 * per_token * count / (times[1] - times[0])
    return training / 1e9, 16 * 1024**3 / (times[2] - times[1]) / 1e9
