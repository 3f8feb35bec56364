"""A plain recurrent network, an LSTM and a GRU learn to add two marked numbers in sequences of up to 600 steps.

Result    mse 0.000057 ± 0.000020 over 3 seeds, 7.9 minutes a run (5.9 CPU minutes) on 1 core
Baseline  answering 1 to every sequence. (The products of number and mark add up to the answer: only memory is tested.)
Published 1 of 2,560 test sequences wrong at 1,000 steps, 0 at 500 (table 7, means over 10 runs of an LSTM): off by over
          0.04, which is 0.08 here, since sums are halved there. Training, on new sequences with both marks in the first
          half, ended when the mean error was below 0.01 and the latest 2,000 sequences were all within 0.04.
Paper     Hochreiter, Schmidhuber: Long Short-Term Memory, 1997, section 5.4, https://doi.org/10.1162/neco.1997.9.8.1735
          Gate bias: https://arxiv.org/abs/1804.11188, clipping: https://arxiv.org/abs/1211.5063
Answers   How far back does the gradient reach before training? It falls below a hundredth within 58 steps in SimpleRNN,
          19 in LSTM, 9 in GRU; if biased to remember, 9% reaches the first of 600 in LSTM, 22% in GRU. (In Keras's GRU,
          an update gate of 1 keeps the state.)
          Which cells get at most 3 of 2,560 sequences wrong, as all did in the paper? With 50 steps and 9,000 updates,
          SimpleRNN from 0% of the seeds (squared error 1.4e-02), LSTM 100% (2.5e-05) and GRU 100% (3.7e-06); with 200
          steps and 3,000 updates, SimpleRNN 0% (1.6e-01), LSTM 33% (1.9e-03) and GRU 100% (5.3e-05).
          What does a bias to remember add at 600 steps? The GRU's error is 5.7e-05 with it; with Keras's bias, from the
          lowest of three rates to the highest, 1.5e-02, 2.7e-04 and 4.9e-05, the last no difference beyond the spread
          of the seeds.
          Does clipping tame an explosion? At the least stable of three rates, gradient descent makes 1,337 of its
          21,000 updates before it overflows or ends; clipped, 21,000. Each at its best rate, the error is 0.032 without
          clipping and 0.016 with it.
          Which initial weights help? With clipping, each at its best rate, orthogonal ones reach an error of 0.016,
          small random ones 0.133.

    python -m recipes.recurrent.vanishing_gradients
    python -m recipes.recurrent.vanishing_gradients --set compared=0 cell=lstm
    python -m recipes.recurrent.vanishing_gradients --try "0.5 0.1* 0.8 0.3*"

All have 32 units. In batches of 20, Adam makes 9,000 updates at 50 steps and 3,000 at 200 and 600; gradient descent,
with which clipping and initial weights can matter, 21,000. Each setting that is compared is trained at three learning
rates; validation selects one.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle
from common.datasets import adding
from common.plots import MUTED, new, plain

PROMISE = {
    "figure": {"metric": "mse", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "always answering 1", "metric": "one_mse"},
    "published": {"metric": "wrong", "value": 0.00039, "source": "share wrong, LSTM of 1997, 1,000 steps (0 at 500)"},
    "data": ["adding/steps_50", "adding/steps_200", "adding/steps_600"],
}
TINY = {"examples": 23, "epochs": 2, "length": 50, "units": 8, "compared": 1, "xla": False}
VARIANTS = {
    "keras bias, rate 0.003": {"compared": 0, "gate_bias": "keras", "learning_rate": 0.003},
    "keras bias": {"compared": 0, "gate_bias": "keras"},
    "keras bias, rate 0.03": {"compared": 0, "gate_bias": "keras", "learning_rate": 0.03},
}
PINNED = ("length", "compared", "xla")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

LENGTHS = (50, 200, 600)  # Configurations of the data set.
CELLS = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
COLOURS = {"simple": "#c2410c", "lstm": "#1d4ed8", "gru": "#0f766e"}
BIASED = (("gru", "chrono"), ("lstm", "chrono"), ("lstm", "keras"), ("simple", "keras"), ("gru", "keras"))
PLAIN = {"optimizer": "sgd", "clip_norm": 1.0, "cell": "simple", "recurrent_initializer": "orthogonal", "length": 50}
# What is changed, how many times the epochs, and the learning rates, of which validation chooses one.
COMPARED = {
    "unclipped": ({**PLAIN, "clip_norm": 0.0}, 7, (0.01, 0.03, 0.1)),
    "clipped": (PLAIN, 7, (0.01, 0.03, 0.1)),
    "small-weights": ({**PLAIN, "recurrent_initializer": "random_normal"}, 7, (0.01, 0.03, 0.1)),
    "simple-50": ({"cell": "simple", "length": 50}, 3, (0.001, 0.003, 0.01)),
    "lstm-50": ({"cell": "lstm", "length": 50}, 3, (0.003, 0.01, 0.03)),
    "gru-50": ({"cell": "gru", "length": 50}, 3, (0.003, 0.01, 0.03)),
    "simple-200": ({"cell": "simple", "length": 200}, 1, (0.001, 0.003, 0.01)),
    "lstm-200": ({"cell": "lstm", "length": 200}, 1, (0.003, 0.01, 0.03)),
    "gru-200": ({"cell": "gru", "length": 200}, 1, (0.003, 0.01, 0.03)),
}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 20, 10_000, default=10_000)  # Sequences read from each split, at most.
    hp.Int("epochs", 1, 40, default=6)  # Several times as many on short sequences, where they cost little.
    hp.Choice("batch_size", [10, 20, 50, 100], default=20)  # Small: leaving the loss's plateau takes many updates.
    hp.Choice("length", list(LENGTHS), default=600)
    hp.Choice("cell", list(CELLS), default="gru")  # Of the recipe's own network, whose error is the figure.
    hp.Int("units", 8, 256, step=8, default=32)
    hp.Choice("recurrent_initializer", ["orthogonal", "glorot_uniform", "random_normal"], default="orthogonal")
    hp.Choice("gate_bias", ["chrono", "keras"], default="chrono")  # keras: 0, but 1 for the LSTM's forget gate.
    hp.Choice("optimizer", ["adam", "sgd"], default="adam")
    hp.Float("clip_norm", 0.0, 10.0, default=1.0)  # Of all gradients together; 0 disables clipping.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)  # The peak, after a tenth of the steps.
    hp.Int("compared", 0, len(COMPARED), default=len(COMPARED))  # 0 trains only the recipe's own; set it for a search.
    hp.Boolean("xla", default=True)  # Compilation takes seconds, but halves the time of a loop of many small steps.
    return hp


def build_model(hp, name="vanishing_gradients"):
    """One recurrent layer whose last state gives the sum: (B, T, 2) to (B, 1)."""
    sequences = keras.Input((hp["length"], 2), name="sequences")
    recurrent = CELLS[hp["cell"]](hp["units"], recurrent_initializer=hp["recurrent_initializer"], name="recurrent")
    model = keras.Model(sequences, layers.Dense(1, name="sum")(recurrent(sequences)), name=name)
    if hp["gate_bias"] == "chrono":
        # A unit whose gate is sigmoid(log(n - 1)) keeps its state for about n steps; n ranges from 2 to `length`.
        lasting = np.log(np.linspace(2, hp["length"], hp["units"]) - 1)
        bias = np.zeros(recurrent.cell.bias.shape)
        if hp["cell"] == "lstm":
            bias[: 2 * hp["units"]] = [*-lasting, *lasting]  # The input gate and the forget gate.
        elif hp["cell"] == "gru":
            bias[0, : hp["units"]] = lasting  # The update gate: 1 keeps the state.
        recurrent.cell.bias.assign(bias)
    optimizers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    optimizer = optimizers[hp["optimizer"]](hp["learning_rate"], global_clipnorm=hp["clip_norm"] or None)
    model.compile(optimizer, "mse", jit_compile=hp["xla"], steps_per_execution=10)
    return model


@functools.cache
def read(length, split, examples):
    """A split's sequences (N, T, 2), each step a number and whether it is marked, and sums (N,)."""
    dataset = tfds.load(f"{adding.Builder.name}/steps_{length}", split=SPLITS[split]).take(examples)
    rows = dataset.batch(examples).get_single_element()
    marks = tf.reduce_max(tf.one_hot(rows["marked"], length), axis=1)
    return tf.stack([rows["numbers"], marks], axis=-1).numpy(), rows["sum"].numpy()


def load_data(hp, split):
    """Batches of sequences (B, T, 2) and sums (B,)."""
    examples = tf.data.Dataset.from_tensor_slices(read(hp["length"], split, hp["examples"]))
    return (shuffle(examples) if split == "train" else examples).batch(hp["batch_size"]).prefetch(2)


def train(hp, seed, callbacks=()):
    """Trains all networks from `seed`; returns those of COMPARED at their best rates, and the recipe's own, "model"."""

    def fit(name, values, callbacks, verbose="auto"):
        keras.utils.set_random_seed(seed)
        model = build_model(values, name)
        model.fit(
            load_data(values, "train"),
            validation_data=load_data(values, "validation"),
            epochs=values["epochs"],
            callbacks=callbacks,
            verbose=verbose,
            shuffle=False,  # `load_data` did.
        )
        error = float(np.nan_to_num(model.history.history["val_loss"][-1], nan=np.inf))
        updates = int(model.optimizer.iterations)
        model.seed, model.found = seed, {"rate": values["learning_rate"], "validation-mse": error, "updates": updates}
        return model

    models = {}
    for name, (changes, times, rates) in list(COMPARED.items())[: hp["compared"]]:
        values, fitted = {**hp.values, "gate_bias": "keras", "epochs": times * hp["epochs"], **changes}, []
        for rate in rates:
            run, at_rate = f"{name}-{rate}", {**values, "learning_rate": rate}
            if "optimizer" in changes:  # To overflow is a result here, and to one of `callbacks` an error.
                print(f"Training {run}", flush=True)
                fitted.append(fit(run, at_rate, [keras.callbacks.TerminateOnNaN()], verbose=0))
            else:
                fitted.append(fit(run, at_rate, [OneCycle(), *callbacks]))
        models[name] = min(fitted, key=lambda model: model.found["validation-mse"])
        models[name].found["updates"] = min(model.found["updates"] for model in fitted)
    return {"model": fit("vanishing_gradients", hp.values, [OneCycle(), *callbacks]), **models}


def evaluate(models, hp):
    """Test errors of all networks, and how much of the gradient is left before training."""
    results = {}
    for name, model in models.items():
        sequences, sums = read(model.input_shape[1], "test", hp["examples"])
        errors = ops.convert_to_numpy(model(sequences, training=False))[:, 0] - sums
        wrong = float(np.mean(~(np.abs(errors) < 0.08)))
        found = {"mse": float(np.mean(errors**2)), "wrong": wrong, "solved": float(wrong <= 3 / 2_560), **model.found}
        results |= {metric if name == "model" else f"{name}-{metric}": value for metric, value in found.items()}
    _, sums = read(hp["length"], "test", hp["examples"])
    results["one_mse"] = float(np.mean((1 - sums) ** 2))
    for cell, bias in BIASED:
        left = gradient_left(cell, bias, hp, models["model"].seed)
        results[f"{cell}-{bias}-left"] = float(left[0])
        results[f"{cell}-{bias}-reach"] = float(np.sum(np.minimum.accumulate(left[::-1]) >= 0.01))
    return results


def gradient_left(cell, bias, hp, seed):
    """The gradient's norm with respect to each step's states before training, relative to the last step's: (T,)."""
    keras.utils.set_random_seed(seed)
    model = build_model({**hp.values, "cell": cell, "gate_bias": bias})
    sequences, sums = (part[:100] for part in read(hp["length"], "validation", hp["examples"]))
    recurrent, output = model.get_layer("recurrent"), model.get_layer("sum")
    states, steps = recurrent.get_initial_state(len(sequences)), []
    with tf.GradientTape() as tape:
        for step in range(sequences.shape[1]):
            hidden_state, states = recurrent.cell(sequences[:, step], states)
            steps.append(states)
        loss = ops.sum(ops.square(output(hidden_state)[:, 0] - sums))
    gradients = tape.gradient(loss, steps)  # T lists: one (B, units), and in an LSTM another for the cell state.
    norms = np.linalg.norm([np.linalg.norm(state, axis=-1).mean(axis=-1) for state in zip(*gradients)], axis=0)
    return norms / norms[-1]


def predict(model, assets, inputs):
    """Adds the two marked numbers of each input; returns the network's sum beside the true one.

    inputs: numbers from 0 to 1, two of them marked by a star; ValueError for anything else. If there are fewer than in
        the training sequences, unmarked numbers of 0.5 are inserted in the middle.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["0.5 0.1* 0.8 0.3*"])
    """
    answers, length = [], model.input_shape[1]
    for text in inputs:
        words = text.split()
        numbers = [word.removesuffix("*") for word in words]
        valid = all(number.replace(".", "", 1).isdecimal() and float(number) <= 1 for number in numbers)
        if not valid or text.count("*") != 2 or len(words) > length:
            raise ValueError(f"{text!r}: expected up to {length} numbers from 0 to 1, two marked, as in 0.5* 0.8 0.3*")
        steps = np.array([[float(number), "*" in word] for number, word in zip(numbers, words)], "float32")  # (T, 2)
        steps = np.insert(steps, len(steps) // 2, np.tile([0.5, 0.0], (length - len(steps), 1)), axis=0)
        answer = float(model(steps[None], training=False)[0, 0])
        answers.append(f"{answer:.3f} (the true sum is {steps.prod(axis=1).sum():.3f})")
    return answers


def show(models, hp):
    """How much of the gradient reaches each step, and how the compared networks learn at their best rates."""
    gradients, ax = new(6, 4.5)
    for cell, bias in BIASED:
        style, label = ("-", ", biased to remember") if bias == "chrono" else ("--", "")
        left = gradient_left(cell, bias, hp, models["model"].seed)
        ax.plot(left, style, color=COLOURS[cell], linewidth=3, label=CELLS[cell].__name__ + label)
    plain(ax).set(yscale="log", ylim=(1e-18, 1e2), yticks=[1, 1e-6, 1e-12, 1e-18])
    ax.set_title("The gradient vanishes on its way back,\nunless gates are biased to remember", fontsize=15)
    ax.set_xlabel("step (the loss is that of the last one)", fontsize=13)
    ax.set_ylabel("share left, before training", fontsize=13)
    ax.legend(frameon=False, fontsize=12, loc="lower left")

    learning, panels = new(11, 4, columns=3, sharey=True)
    for name, model in models.items():
        if name in COMPARED:
            errors, changes = model.history.history["val_loss"], COMPARED[name][0]
            ax = panels[2 if "optimizer" in changes else LENGTHS.index(changes["length"])]
            updates = np.arange(1, len(errors) + 1) * int(model.optimizer.iterations) / len(errors)
            label = name if "optimizer" in changes else CELLS[changes["cell"]].__name__
            colour = COLOURS.get(name.split("-")[0])
            ax.plot(updates, errors, color=colour, label=f"{label}, rate {model.found['rate']}")
    for ax, title in zip(panels, ("50 steps, Adam", "200 steps, Adam", "50 steps, SimpleRNN, gradient descent")):
        ax.axhline(1 / 6, color=MUTED, zorder=0, label="always answering 1")
        plain(ax).set(title=title, xlabel="updates", yscale="log")
        ax.legend(frameon=False)
    panels[0].set_ylabel("squared error on validation")
    learning.suptitle("When each network, at its best rate, leaves the plateau of always answering 1")
    return {"gradients": gradients, "learning": learning} if hp["compared"] else {"gradients": gradients}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
