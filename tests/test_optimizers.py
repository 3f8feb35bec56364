"""`common.optimizers.Muon` against Keras's own on matrices, and against AdamW for the variables that it excludes."""

import keras
import numpy as np
import pytest

from common import optimizers

SHAPE = (3, 3, 4, 8)
OPTIONS = {"learning_rate": 0.01, "weight_decay": 0.1, "adam_weight_decay": 0.1, "adam_lr_ratio": 1.0, "momentum": 0.95}


def after_steps(optimizer, shape, path="kernel", steps=3):
    """The variable, as (36, 8), after some steps along gradients that depend only on the number of the step."""
    generator = np.random.default_rng(0)
    variable = keras.Variable(generator.normal(size=shape), dtype="float32", name=path)
    optimizer.build([variable])
    for _ in range(steps):
        optimizer.apply([keras.ops.convert_to_tensor(generator.normal(size=shape).astype("float32"))])
    return keras.ops.convert_to_numpy(variable).reshape(36, 8)


def test_muon_treats_a_kernel_as_keras_treats_a_matrix():
    matrix = after_steps(keras.optimizers.Muon(**OPTIONS), (36, 8))
    np.testing.assert_allclose(after_steps(optimizers.Muon(**OPTIONS), SHAPE), matrix, rtol=1e-5, atol=1e-6)


def test_the_steps_of_a_kernel_are_nearly_orthogonal():
    options = {**OPTIONS, "weight_decay": None}
    before = after_steps(optimizers.Muon(**options), SHAPE, steps=0)
    step = after_steps(optimizers.Muon(**options), SHAPE, steps=1) - before
    singular_values = np.linalg.svd(step, compute_uv=False) / (0.01 * 0.2 * 36**0.5)
    assert 0.6 < singular_values.min() and singular_values.max() < 1.3


@pytest.mark.parametrize("shape", [(36, 2, 4), (3, 12, 8)])
def test_muon_treats_what_projects_to_heads_and_a_1d_convolution_as_keras_treats_a_matrix(shape):
    matrix = after_steps(keras.optimizers.Muon(**OPTIONS), (36, 8))
    np.testing.assert_allclose(after_steps(optimizers.Muon(**OPTIONS), shape), matrix, rtol=1e-5, atol=1e-6)


def test_the_kernels_of_attention_are_matrices_of_inputs_by_outputs():
    layer = keras.layers.MultiHeadAttention(3, 8)
    layer.build((None, 5, 24), (None, 5, 24))
    kernels = {dense: getattr(layer, f"{dense}_dense").kernel.shape for dense in ("query", "key", "value", "output")}
    assert all(len(shape) == 3 and optimizers.matrix_shape(shape) == (24, 24) for shape in kernels.values()), kernels


@pytest.mark.parametrize("shape, path", [(SHAPE, "output"), ((288,), "bias"), ((36, 8), "query_bias")])
def test_adamw_updates_what_is_excluded_and_what_is_not_a_matrix(shape, path):
    adamw = after_steps(keras.optimizers.AdamW(0.01, weight_decay=0.1), shape, path)
    muon = after_steps(optimizers.Muon(**OPTIONS, exclude_layers=["output"]), shape, path)
    np.testing.assert_allclose(muon, adamw, rtol=1e-4, atol=1e-6)


def test_under_muon_and_under_adamw_the_same_weights_decay_equally_fast():
    tokens = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Dense(4)(keras.layers.Embedding(7, 4)(tokens))
    hidden = keras.layers.MultiHeadAttention(2, 2)(hidden, hidden)
    model = keras.Model(tokens, keras.layers.Dense(3, name="logits")(keras.layers.LayerNormalization()(hidden)))
    model.set_weights([np.ones_like(each) for each in model.get_weights()])
    before = model.get_weights()
    for name in ("muon", "adamw"):
        model.set_weights(before)
        optimizer = optimizers.muon_or_adamw(name, model, 0.1, 0.5, exclude_layers=["logits"])
        optimizer.apply([0 * each for each in model.trainable_variables], model.trainable_variables)
        for weight in model.trainable_variables:  # Its gradient is zero.
            decays = weight.path.endswith("kernel") and "logits" not in weight.path
            np.testing.assert_allclose(weight, 0.95 if decays else 1.0, rtol=1e-6, err_msg=f"{name}: {weight.path}")
