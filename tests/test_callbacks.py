"""The callbacks of every fit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import callbacks, data, files
from conftest import KillAt, Killed


def network():
    """A network with dropout, recurrent dropout and batch norm: all that is easily forgotten."""
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.GRU(4, dropout=0.2, recurrent_dropout=0.2),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ],
        name="network",
    )


def fit(path, restore, epochs=4, before=(), after=(), learning_rate=1e-2):
    """Fits a network, averaging its weights; returns it and the history."""
    keras.utils.set_random_seed(3)
    data.shuffle.counters.clear()
    generator = np.random.default_rng(0)
    examples = generator.normal(size=(40, 5, 3)).astype("float32"), generator.integers(0, 2, 40)
    model = network()
    batches = data.shuffle(tf.data.Dataset.from_tensor_slices(examples).cache()).batch(8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.AdamW(learning_rate, use_ema=True), loss, metrics=["accuracy"], steps_per_execution=2
    )
    histories = {}
    resume = callbacks.Resume(path, histories, lambda: {"seconds": 12.5, "cpu_seconds": 20.0}, restore)
    others = [callbacks.Throughput(), callbacks.StopAtNaN(), resume, callbacks.Progress()]
    model.fit(batches, epochs=epochs, callbacks=[*before, *others, *after], shuffle=False)
    return model, histories["network"]


ONE_CYCLE = {"before": {"before": [callbacks.OneCycle()]}, "after": {"after": [callbacks.OneCycle()]}, "none": {}}


@pytest.mark.parametrize("cycle, epoch", [("before", 3), ("after", 1), ("none", 1)])
def test_a_resumed_fit_ends_with_the_same_weights_bit_for_bit(tmp_path, epoch, cycle):
    """Wherever the schedule's callback stands in the list."""
    options = ONE_CYCLE[cycle]
    whole, history = fit(tmp_path / "whole", restore=False, **options)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", restore=False, **{**options, "after": [*options.get("after", []), KillAt(epoch)]})
    resumed, resumed_history = fit(tmp_path / "killed", restore=True, **options)
    for expected, found in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(expected), keras.ops.convert_to_numpy(found))
    times = "examples_per_second"
    assert {name: values for name, values in history.items() if name != times} == {
        name: values for name, values in resumed_history.items() if name != times
    }
    assert len(resumed_history[times]) == 4
    assert resumed.history.history == resumed_history
    assert callbacks.elapsed_so_far(tmp_path / "killed") == {"seconds": 12.5, "cpu_seconds": 20.0}


def test_a_run_took_as_long_as_its_last_fit_says_which_counts_those_before(tmp_path):
    for name, seconds in (("second", 30.0), ("first", 10.0)):
        state = {"epochs": 1, "history": {}, "passes": [], "elapsed": {"seconds": seconds, "cpu_seconds": 2 * seconds}}
        np.savez(tmp_path / f"{name}.npz", state=json.dumps(state))
    assert callbacks.elapsed_so_far(tmp_path) == {"seconds": 30.0, "cpu_seconds": 60.0}


def test_a_finished_fit_is_restored_without_training(tmp_path):
    whole, history = fit(tmp_path, restore=False)
    again, again_history = fit(tmp_path, restore=True, after=[KillAt(0), KillAt(3)])
    assert again_history == again.history.history == history
    for expected, found in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(expected), keras.ops.convert_to_numpy(found))


def test_nan_stops_at_once_and_names_the_steps(tmp_path):
    with pytest.raises(callbacks.Diverged, match="in steps 1 to 2 of epoch 1: lower the learning rate"):
        fit(tmp_path, restore=False, learning_rate=float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_second_training_in_one_process_equals_the_first(tmp_path):
    (first, history), (second, again) = fit(tmp_path / "first", False), fit(tmp_path / "second", False)
    assert history["loss"] == again["loss"]
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


def test_two_fits_of_one_name_are_refused(tmp_path):
    history = callbacks.History({})
    model = network()
    model.compile("sgd", "mse")
    examples = np.zeros((4, 5, 3)), np.zeros((4, 2))
    model.fit(*examples, callbacks=[history], verbose=0)
    with pytest.raises(ValueError, match="'network' was fitted before"):
        model.fit(*examples, callbacks=[history], verbose=0)


class LearningRates(keras.callbacks.Callback):
    """Notes the learning rate after every call of the training function."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_one_cycle_rises_to_the_peak_and_falls_to_zero(steps_per_execution):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="line")
    model.compile(keras.optimizers.SGD(0.5), "mse", steps_per_execution=steps_per_execution)
    examples = tf.data.Dataset.from_tensor_slices((np.zeros((40, 3)), np.zeros((40, 1)))).batch(2)
    noted = LearningRates()
    model.fit(examples, epochs=5, callbacks=[callbacks.OneCycle(warmup=0.2), noted], verbose=0)
    steps = np.arange(steps_per_execution, 101, steps_per_execution)  # Done when each rate was noted.
    expected = np.where(steps <= 20, 0.5 * steps / 20, 0.25 * (1 + np.cos(np.pi * (steps - 20) / 80)))
    np.testing.assert_allclose(noted.rates, expected, atol=1e-6)
    with pytest.raises(ValueError, match="compile it again"):
        model.fit(examples, callbacks=[callbacks.OneCycle()], verbose=0)


def test_one_cycle_wants_to_know_the_number_of_steps():
    model = network()
    model.compile("sgd", "mse")
    examples = tf.data.Dataset.from_tensors((np.zeros((4, 5, 3)), np.zeros((4, 2)))).filter(lambda x, y: True)
    with pytest.raises(ValueError, match="cardinality"):
        model.fit(examples, callbacks=[callbacks.OneCycle()], verbose=0)


def test_throughput_counts_the_examples_of_the_data(tmp_path, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: float(next(seconds)))
    _, history = fit(tmp_path, restore=False, epochs=1)
    # Five steps of eight examples, two an execution: three calls, a tick of the clock each.
    assert history["examples_per_second"] == [40 / 3]


def test_the_progress_bar_never_counts_past_the_end(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(callbacks.Progress, "_update_progbar", lambda self, batch, logs: shown.append(batch + 1))
    fit(tmp_path, restore=False, epochs=1)
    assert shown == [2, 4, 5]


class Agent(keras.Model):
    """What a loop of one's own trains."""

    def __init__(self):
        super().__init__(name="agent")
        self.total = self.add_weight(name="total", trainable=False, initializer="zeros")
        self.built = True


def act(directory, restore=False, extra=()):
    agent, histories = Agent(), {}
    resume = callbacks.Resume(directory, histories, lambda: {"seconds": 1.0, "cpu_seconds": 1.0}, restore)
    for epoch, logs in callbacks.epochs(agent, 4, [resume, *extra]):
        agent.total.assign_add(epoch + 1)
        logs["loss"] = float(agent.total)
    return float(agent.total), histories["agent"]["loss"]


def test_a_loop_of_ones_own_resumes(tmp_path):
    with pytest.raises(Killed):
        act(tmp_path, extra=[KillAt(2)])
    assert act(tmp_path, restore=True) == (10.0, [1.0, 3.0, 6.0, 10.0])


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"epoch": 1})

    def killed(file):
        file.write(b'{"ep')
        raise Killed

    with pytest.raises(Killed):
        files.replace(path, killed)
    assert json.loads(path.read_text()) == {"epoch": 1}
