"""Callbacks: the one-cycle learning rate schedule, and those that the command line adds to every `fit`.

One callback may serve several fits in turn; what it records of each is stored under the model's name.
"""

import json
import sys
import time

import keras
import numpy as np

from common.data import shuffle
from common.files import replace


class OneCycle(keras.callbacks.Callback):
    """Warms the learning rate up from zero to the compiled one, then decays it to zero along a cosine.

    The cycle lasts for the whole fit; `warmup` is the fraction of its steps that warm up (Smith and Topin 2017,
    https://arxiv.org/abs/1708.07120). Raises ValueError for data of unknown size, or a second fit without recompiling.
    """

    def __init__(self, warmup=0.1):
        super().__init__()
        self.warmup = warmup

    def on_train_begin(self, logs=None):
        peak = self.model.optimizer.get_config()["learning_rate"]
        if self.params["steps"] is None:
            raise ValueError("OneCycle needs data of known cardinality: use tf.data.experimental.assert_cardinality")
        if not isinstance(peak, float):
            raise ValueError(f"the learning rate of {self.model.name} has a schedule: compile it again for this fit")
        steps = self.params["epochs"] * self.params["steps"]
        rising = max(1, int(self.warmup * steps))
        self.model.optimizer.build(self.model.trainable_variables)  # Otherwise the first step is traced twice.
        self.model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - rising), warmup_target=peak, warmup_steps=rising
        )


class Throughput(keras.callbacks.Callback):
    """Adds `examples_per_second`, for training without validation, to an epoch's logs.

    An example is a row of the model's first input, as counted by Keras's own mean of the loss.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.examples = time.perf_counter(), 0.0
        self.loss = next((metric for metric in self.model.metrics if metric.name == "loss"), None)

    def on_train_batch_end(self, batch, logs=None):
        self.end = time.perf_counter()
        if self.loss is not None:
            self.examples = float(self.loss.count)

    def on_epoch_end(self, epoch, logs=None):
        if self.examples:
            logs["examples_per_second"] = self.examples / (self.end - self.start)


class Diverged(ArithmeticError):
    """The loss is NaN or infinite, or a weight is."""


class StopAtNaN(keras.callbacks.Callback):
    """Stops a fit that has diverged; in the list of callbacks it must stand before those that save an epoch.

    Raises:
        Diverged: names the epoch, and the steps if it was during training.
    """

    REMEDY = "lower the learning rate, or clip the gradients"

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.first_step = epoch, 1

    def on_train_batch_begin(self, batch, logs=None):
        self.first_step = batch + 1

    def on_train_batch_end(self, batch, logs=None):
        # With several steps per execution, Keras counts past the end of the epoch, and shows the loss after the last.
        last_step = min(batch + 1, self.params["steps"] or batch + 1)
        steps = f"step {last_step}" if last_step == self.first_step else f"steps {self.first_step} to {last_step}"
        self.check("loss", logs, f"in {steps} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        where = f"at the end of epoch {epoch + 1}"
        for name in ("loss", "val_loss"):
            self.check(name, logs, where)
        # No training loss of this epoch shows what its last step did to the weights.
        if not all(np.isfinite(keras.ops.convert_to_numpy(each)).all() for each in self.model.trainable_weights):
            raise Diverged(f"weights are NaN or infinite {where}: {self.REMEDY}")

    def check(self, name, logs, where):
        if not np.isfinite(logs.get(name, 0.0)):
            raise Diverged(f"the {name} is {logs[name]} {where}: {self.REMEDY}")


class Progress(keras.callbacks.ProgbarLogger):
    """Prints the model's name; then shows a progress bar in a terminal, one line per epoch elsewhere."""

    def set_params(self, params):
        super().set_params({**params, "verbose": 1 if sys.stdout.isatty() else 2})

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        print(f"Training {self.model.name}", flush=True)

    def on_train_batch_end(self, batch, logs=None):
        # With several steps per execution Keras counts past the end of the epoch (keras#20861).
        super().on_train_batch_end(min(batch, (self.target or batch + 1) - 1), logs)


class Logs(keras.callbacks.TensorBoard):
    """TensorBoard logs, one directory per fit, named after the model.

    directory: a `pathlib.Path`.
    """

    def __init__(self, directory):
        super().__init__(directory, write_graph=False)
        self.directory = directory

    def set_model(self, model):
        self.log_dir = str(self.directory / model.name)
        super().set_model(model)


class History(keras.callbacks.Callback):
    """Keeps the logs of every fit.

    histories: {model's name: {metric: one value per epoch}}, filled as the fits proceed.

    Raises:
        ValueError: when a second model of the same name begins its fit.
    """

    def __init__(self, histories):
        super().__init__()
        self.histories = histories

    def on_train_begin(self, logs=None):
        if self.model.name in self.histories:
            raise ValueError(f"a model named {self.model.name!r} was fitted before: give this one another name")
        self.histories[self.model.name] = {}

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.histories[self.model.name].setdefault(name, []).append(float(value))


class Resume(History):
    """Saves the state of every fit after each epoch, and resumes from it as if nothing had happened.

    Keras's BackupAndRestore loses the seeds of dropout and the history. This saves every variable of the model (the
    seeds are among them), of its metrics and of its optimizers, the number of passes that `data.shuffle` has made,
    and the history, in one file per fit, which is replaced atomically. Whatever else training depends on must be a
    variable of the model, or be determined by seed and epoch.

    directory: where the files are saved, a `pathlib.Path`.
    histories: as in `History`; the epochs before an interruption are included.
    elapsed: function that returns the time that the run has taken, {"seconds", "cpu_seconds"}; saved, so that a
        resumed run continues the count.
    restore: whether to resume from what the files hold.
    """

    def __init__(self, directory, histories, elapsed, restore):
        super().__init__(histories)
        self.directory, self.elapsed, self.restore = directory, elapsed, restore

    @property
    def path(self):
        """The file of the current fit."""
        return self.directory / f"{self.model.name}.npz"

    def variables(self):
        """Every variable that the fit may change, by a name that stays the same in another process."""
        optimizers = [each for each in vars(self.model).values() if isinstance(each, keras.optimizers.Optimizer)]
        groups = {"model": self.model.variables, "metrics": self.model.metrics_variables}
        for number, optimizer in enumerate(optimizers):
            # The learning rate comes last, since `OneCycle` replaces its variable with a schedule.
            groups[f"optimizer{number}"] = sorted(optimizer.variables, key=lambda each: each.name == "learning_rate")
        return {f"{name}/{index}": each for name, group in groups.items() for index, each in enumerate(group)}

    def load(self):
        """Sets every variable to its saved value; returns the rest of the saved state; raises BrokenBackup."""
        state, arrays = read_backup(self.path)
        for name, variable in self.variables().items():
            if name in arrays and arrays[name].shape == tuple(variable.shape):
                variable.assign(arrays[name])
            elif variable.name != "learning_rate":
                raise BrokenBackup(f"{self.path} does not fit {variable.path}: the model has changed since")
        return state

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if not self.model.built:
            raise ValueError("a fit can only be resumed if the model is built before it: begin with keras.Input")
        if getattr(self.model, "optimizer", None) is not None:
            self.model.optimizer.build(self.model.trainable_variables)
        if self.restore and self.path.exists():
            state = self.load()
            if len(state["passes"]) != len(shuffle.counters):
                raise BrokenBackup(f"{self.path} does not fit the data: what is shuffled has changed since")
            self.histories[self.model.name] |= state["history"]
            # Keras's own history, which `fit` returns, would lack the epochs before the interruption.
            self.model.history.history |= {name: list(values) for name, values in state["history"].items()}
            for counter, value in zip(shuffle.counters, state["passes"], strict=True):
                counter.assign(value)
            # This is how Keras's own BackupAndRestore tells `fit` where to continue; there is no public way.
            self.model._initial_epoch = state["epochs"]

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        state = {
            "epochs": epoch + 1,
            "history": self.histories[self.model.name],
            "passes": [int(counter) for counter in shuffle.counters],
            "elapsed": self.elapsed(),
        }
        arrays = {name: keras.ops.convert_to_numpy(each) for name, each in self.variables().items()}
        replace(self.path, lambda file: np.savez(file, state=json.dumps(state), **arrays))

    def on_train_end(self, logs=None):
        # A later fit of the same network (fine-tuning, say) must start at its own first epoch.
        self.model._initial_epoch = None


class BrokenBackup(Exception):
    """A file that `Resume` saved is damaged, or belongs to another model."""


def read_backup(path):
    """What `Resume` saved: the state, a dictionary, and {name: array}; raises BrokenBackup."""
    try:
        with np.load(path) as saved:
            arrays = dict(saved)
        state = json.loads(str(arrays.pop("state")))
        types = {"epochs": int, "history": dict, "passes": list, "elapsed": dict}
        whole = all(isinstance(state[key], each) for key, each in types.items())
    except Exception as error:  # Damaged bytes raise nearly any class.
        raise BrokenBackup(f"{path} is damaged") from error
    if not whole:
        raise BrokenBackup(f"{path} is damaged")
    return state, arrays


def elapsed_so_far(directory):
    """The time taken by the run whose backups are in `directory`, {"seconds", "cpu_seconds"}; zeros if it has none."""
    elapsed = [{"seconds": 0.0, "cpu_seconds": 0.0}]
    elapsed += [read_backup(path)[0]["elapsed"] for path in directory.glob("*.npz")]
    return max(elapsed, key=lambda each: each["seconds"])


def epochs(model, count, callbacks, steps=None):
    """Runs `callbacks` around your own training loop, as `fit` runs them around its steps.

        for epoch, logs in epochs(agent, hp["epochs"], callbacks):
            logs["loss"] = ...

    Yields the number of each epoch and the dictionary that callbacks receive at its end. A resumed run continues
    after the last complete epoch. `model` is a compiled `keras.Model`; its `stop_training` ends the loop.
    `steps`: updates of its optimizer in an epoch, which `OneCycle` must know.
    """
    callback_list = keras.callbacks.CallbackList(
        callbacks, add_history=True, add_progbar=True, model=model, epochs=count, steps=steps, verbose="auto"
    )
    model.stop_training, model._initial_epoch = False, None
    callback_list.on_train_begin()
    for epoch in range(model._initial_epoch or 0, count):
        logs = {}
        callback_list.on_epoch_begin(epoch)
        yield epoch, logs
        callback_list.on_train_batch_end((steps or 1) - 1, logs)
        callback_list.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callback_list.on_train_end()
