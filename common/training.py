"""Callbacks of every fit: progress with examples per second, a stop at NaN, and resume after a kill."""

import json
import sys
import time

import keras
import numpy as np

from common import data, errors, files


class Epoch(keras.callbacks.Callback):
    """Tells `data.shuffle` which epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        data.set_epoch(epoch)


class Throughput(keras.callbacks.Callback):
    """Adds `examples_per_second` to an epoch's logs: training alone, validation left out.

    examples: how many an epoch trains on (pictures, sentences, characters: the recipe says which).
    """

    def __init__(self, examples):
        super().__init__()
        self.examples = examples

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.end = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["examples_per_second"] = self.examples / (self.end - self.start)


class Diverged(errors.RecipeError):
    """The loss is no number any more."""


class StopAtNaN(keras.callbacks.Callback):
    """Stops a fit whose loss is no number any more, before anything is saved.

    Raises:
        Diverged: names the epoch and the step.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise Diverged(
                f"the loss is {logs['loss']} at step {batch + 1} of epoch {self.epoch + 1}: "
                "lower the learning rate, or clip the gradients"
            )


class Progress(keras.callbacks.ProgbarLogger):
    """Tells which fit begins; then a progress bar in a terminal, one line an epoch elsewhere."""

    def __init__(self, stage, examples):
        super().__init__()
        self.stage, self.examples = stage, examples

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        print(f"{self.stage}: {self.examples:,} examples an epoch", flush=True)

    def set_params(self, params):
        super().set_params({**params, "verbose": 1 if sys.stdout.isatty() else 2})


def callbacks(stage, examples):
    """The callbacks of a fit that runs on its own.

    stage: name of the fit, for recipes with several.
    examples: number of training examples an epoch sees.
    """
    return [Epoch(), Throughput(examples), StopAtNaN(), Progress(stage, examples)]


class Resume(keras.callbacks.Callback):
    """Keeps the state of a fit after every epoch, and takes it up again bit for bit.

    Keras's BackupAndRestore loses the seeds of dropout and the history; this keeps every variable of model and
    optimizer (the seeds are among the model's) and the history, in one file that is replaced at once or not at all.

    path: the `.npz` file.
    history: dictionary, filled with one list per metric, those of epochs before the interruption included.
    elapsed: function that tells what the run has taken, {"seconds", "cpu_seconds"}; kept, so that a resumed run can
        go on counting.
    restore: whether to take up what the file holds.
    """

    def __init__(self, path, history, elapsed, restore):
        super().__init__()
        self.path, self.history, self.elapsed, self.restore = path, history, elapsed, restore

    def load(self):
        """Sets every variable to what the file holds; returns the rest of its state."""
        with np.load(self.path) as saved:
            for index, variable in enumerate(self.variables):
                variable.assign(saved[str(index)])
            return json.loads(str(saved["state"]))

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError("a fit can only be resumed if the model has its weights before: begin it with keras.Input")
        self.history.clear()
        self.model.optimizer.build(self.model.trainable_variables)
        self.variables = [*self.model.variables, *self.model.optimizer.variables]
        if self.restore and self.path.exists():
            state = self.load()
            self.history.update(state["history"])
            # Keras's own BackupAndRestore tells `fit` where to go on in this way too; there is no public one.
            self.model._initial_epoch = state["epochs"]

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        state = {"epochs": epoch + 1, "history": self.history, "elapsed": self.elapsed()}
        arrays = {str(index): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(self.variables)}
        files.replace(self.path, lambda file: np.savez(file, state=json.dumps(state), **arrays))

    def on_train_end(self, logs=None):
        # A later fit of the same model (fine-tuning, say) must start at its own first epoch.
        self.model._initial_epoch = None


def elapsed_so_far(directory):
    """What the run that left its backups in `directory` had taken, {"seconds", "cpu_seconds"}; zeros without any."""
    elapsed = [{"seconds": 0.0, "cpu_seconds": 0.0}]
    for path in directory.glob("*.npz"):
        with np.load(path) as saved:
            elapsed.append(json.loads(str(saved["state"]))["elapsed"])
    return max(elapsed, key=lambda each: each["seconds"])
