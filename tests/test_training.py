"""The callbacks of every fit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import data, files, training
from conftest import KillAt, Killed


def fit(path, restore, epochs=4, extra=(), learning_rate=1e-2):
    """A network with dropout, recurrent dropout, batch norm and averaged weights: all that is easily forgotten."""
    keras.utils.set_random_seed(3)
    generator = np.random.default_rng(0)
    examples = generator.normal(size=(40, 5, 3)).astype("float32"), generator.integers(0, 2, 40)
    batches = data.shuffle(tf.data.Dataset.from_tensor_slices(examples).cache()).batch(8)
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.GRU(4, dropout=0.2, recurrent_dropout=0.2),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.AdamW(learning_rate, use_ema=True), loss, metrics=["accuracy"], steps_per_execution=2
    )
    history = {}
    resume = training.Resume(path, history, lambda: {"seconds": 12.5, "cpu_seconds": 20.0}, restore)
    first, throughput, stop, progress = training.callbacks("fit", 40)
    callbacks = [first, throughput, resume, stop, progress, *extra]
    model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False)
    return model, history


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_fit_ends_with_the_same_weights_bit_for_bit(tmp_path, epoch):
    whole, history = fit(tmp_path / "whole.npz", restore=False)
    with pytest.raises(Killed):
        fit(tmp_path / "killed.npz", restore=False, extra=[KillAt(epoch)])
    resumed, resumed_history = fit(tmp_path / "killed.npz", restore=True)
    for expected, found in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(expected), keras.ops.convert_to_numpy(found))
    times = "examples_per_second"
    assert {name: values for name, values in history.items() if name != times} == {
        name: values for name, values in resumed_history.items() if name != times
    }
    assert len(resumed_history[times]) == 4
    assert training.elapsed_so_far(tmp_path) == {"seconds": 12.5, "cpu_seconds": 20.0}


def test_a_finished_fit_is_restored_without_training(tmp_path):
    whole, history = fit(tmp_path / "fit.npz", restore=False)
    again, again_history = fit(tmp_path / "fit.npz", restore=True, extra=[KillAt(0), KillAt(3)])
    assert again_history == history
    for expected, found in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(expected), keras.ops.convert_to_numpy(found))


def test_nan_stops_at_once_and_names_the_step(tmp_path):
    with pytest.raises(training.Diverged, match="step [1-5] of epoch 1: lower the learning rate"):
        fit(tmp_path / "fit.npz", restore=False, learning_rate=float("nan"))
    assert not (tmp_path / "fit.npz").exists()


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"epoch": 1})

    def killed(file):
        file.write(b'{"ep')
        raise Killed

    with pytest.raises(Killed):
        files.replace(path, killed)
    assert json.loads(path.read_text()) == {"epoch": 1}
