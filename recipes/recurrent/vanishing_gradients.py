"""A plain recurrent network, an LSTM and a GRU learn to add two marked numbers in sequences of up to 600 steps.

Result    mse 0.0010 ± 0.0002 over 3 seeds, 5.4 minutes a run (4.0 CPU minutes) on 1 core
Baseline  answering 1 to every sequence, which gives a mean squared error of about 1/6
Published 0.01: below it, the paper counted the task as learned (section 5.4: sums divided by four, one mark early)
Paper     Hochreiter, Schmidhuber: Long Short-Term Memory, 1997, https://doi.org/10.1162/neco.1997.9.8.1735; here each
          half has one mark. Gate bias: https://arxiv.org/abs/1804.11188, clipping: https://arxiv.org/abs/1211.5063
Answers   How much of the gradient reaches the first of 600 steps before training? In a plain network 0%; in a GRU
          biased to remember, 26%.
          Which cells solve which lengths, and do clipping and the initial weights help? not measured yet
          How far do gradients explode? Their norm reaches 9e+18, then overflows.
          Does Keras's GRU keep or replace its state where the update gate is 1? It keeps 100% of it.

    python -m recipes.recurrent.vanishing_gradients
    python -m recipes.recurrent.vanishing_gradients --try "0.5 0.1* 0.8 0.3*"
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
from common.plots import TRAINING, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "mse", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "always answering 1", "metric": "one_mse"},
    "published": {"value": 0.01, "source": "training could stop there, Hochreiter and Schmidhuber 1997"},
    "data": ["adding/steps_50", "adding/steps_200", "adding/steps_600"],
    "answers": {
        "How much of the gradient reaches the first of 600 steps before training?": "In a plain network "
        "{simple-600-gradient-left-before:.0%}; in a GRU biased to remember, {gru-600-gradient-left-before:.0%}.",
        "Which cells solve which lengths, and do clipping and the initial weights help?": "not measured yet",
        "How far do gradients explode?": "Their norm reaches {exploding-unclipped-largest-norm:.0e}, then overflows.",
        "Does Keras's GRU keep or replace its state where the update gate is 1?": "It keeps {gru-kept-at-1:.0%} of it.",
    },
}
TINY = {"examples": 23, "length": 50, "cell": "lstm", "units": 8, "exploding_updates": 4, "grid": False, "xla": False}
PINNED = ("length", "grid", "xla", "exploding_gain", "exploding_rate", "exploding_updates")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

LENGTHS = (50, 200, 600)  # Configurations of the data set.
CELLS = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
WEIGHTS, UNCLIPPED = {"recurrent_initializer": "glorot_uniform"}, {"clip_norm": 0.0}
AT_SHORTEST = {"-glorot": WEIGHTS, "-unclipped": UNCLIPPED, "-glorot-unclipped": WEIGHTS | UNCLIPPED}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 20, 10_000, default=10_000)  # Sequences read from each split, at most.
    hp.Int("epochs", 1, 40, default=2)
    hp.Choice("batch_size", [10, 20, 50, 100], default=20)  # Small: leaving the loss's plateau takes many updates.
    hp.Choice("length", list(LENGTHS), default=600)  # The longest; with `grid`, shorter ones are also trained on.
    hp.Choice("cell", list(CELLS), default="gru")  # Its error on the longest sequences is the figure.
    hp.Int("units", 8, 256, step=8, default=32)
    hp.Choice("recurrent_initializer", ["orthogonal", "glorot_uniform"], default="orthogonal")
    hp.Choice("gate_bias", ["chrono", "keras"], default="chrono")  # keras: 0, but 1 for the LSTM's forget gate.
    hp.Float("clip_norm", 0.0, 10.0, default=1.0)  # Of all gradients together; 0 disables clipping.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)  # The peak, after a tenth of the steps.
    hp.Boolean("grid", default=True)  # Compare with the other cells; False trains only this one.
    hp.Boolean("xla", default=True)  # Compilation takes seconds, but halves the time of a loop of many small steps.
    hp.Float("exploding_gain", 1.0, 3.0, default=2.0)  # Scales an orthogonal matrix, so that gradients grow.
    hp.Float("exploding_rate", 1e-3, 1.0, sampling="log", default=0.05)  # Of gradient descent.
    hp.Int("exploding_updates", 1, 1_000, default=200)
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
            bias[0, : hp["units"]] = lasting  # The update gate, which `kept_by_update_gate` shows to keep the state.
        recurrent.cell.bias.assign(bias)
    optimizer = keras.optimizers.Adam(hp["learning_rate"], global_clipnorm=hp["clip_norm"] or None)
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


def networks(hp):
    """The hyperparameters of every network that is trained, by name; those given by hp come last."""
    chosen = {}
    for cell in CELLS if hp["grid"] else [hp["cell"]]:
        for length in LENGTHS[: LENGTHS.index(hp["length"]) + 1]:
            changes = {"": {}} if cell == "simple" else {"": {}, "-keras": {"gate_bias": "keras"}}
            for suffix, change in (changes | (AT_SHORTEST if length == LENGTHS[0] else {})).items():
                chosen[f"{cell}-{length}{suffix}"] = {**hp.values, "cell": cell, "length": length, **change}
    own = f"{hp['cell']}-{hp['length']}"
    chosen[own] = chosen.pop(own)
    return chosen


def train(hp, seed, callbacks=()):
    """Trains every network from `seed`; returns them by name: the one with hp's own hyperparameters is "model"."""
    models = {}
    for name, values in networks(hp).items():
        keras.utils.set_random_seed(seed)
        models[name] = build_model(values, name)
        models[name].fit(
            load_data(values, "train"),
            validation_data=load_data(values, "validation"),
            epochs=hp["epochs"],
            callbacks=[OneCycle(), *callbacks],
            shuffle=False,  # `load_data` did.
        )
    return {"model": models.pop(name), **models}  # hp's own came last.


def evaluate(models, hp):
    """Test figures: errors, how much of the gradient is left, what the update gate keeps, and how gradients explode."""
    results = {}
    for name, values in networks(hp).items():
        model = models.get(name, models["model"])
        sequences, sums = read(values["length"], "test", hp["examples"])
        errors = ops.convert_to_numpy(model(sequences, training=False))[:, 0] - sums
        results[f"{name}-mse"] = float(np.mean(errors**2))
        if values["length"] == hp["length"]:
            for when, each in (("before", untrained(values)), ("after", model)):
                results[f"{name}-gradient-left-{when}"] = float(gradient_left(each, sequences[:100], sums[:100])[0])
    results["mse"] = results[f"{name}-mse"]  # Of hp's own network, which came last.
    results["one_mse"] = float(np.mean((1 - sums) ** 2))
    results["gru-kept-at-1"], results["gru-kept-at-0"] = kept_by_update_gate()
    for name, clip_norm in (("unclipped", None), ("clipped", 1.0)):
        losses, norms = explode(hp, clip_norm)
        finite = np.isfinite(losses) & np.isfinite(norms)
        results[f"exploding-{name}-largest-norm"] = float(norms[finite].max())
        results[f"exploding-{name}-finite-updates"] = int(finite.sum())
    results["exploding-clipped-mse"] = float(losses[-20:].mean())
    return results


def untrained(hp):
    """A network before training, always with the same weights."""
    keras.utils.set_random_seed(0)
    return build_model(hp)


def gradient_left(model, sequences, sums):
    """The norm of the squared error's gradient with respect to each step's states, relative to the last step: (T,)."""
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


def kept_by_update_gate():
    """The share of its state that a GRU keeps in one step where its update gate is 1, and where it is 0."""
    layer = layers.GRU(32, kernel_initializer="zeros", recurrent_initializer="zeros")  # So that the candidate is 0.
    layer.build((None, None, 1))
    # If the update gate's biases were not the first third, that gate would be half open and keep half of the state.
    layer.cell.bias.assign(np.repeat([[20.0, -20.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6], 16, axis=1))
    _, (state,) = layer.cell(np.zeros((1, 1), "float32"), [np.ones((1, 32), "float32")])
    return float(state[0, 0]), float(state[0, -1])


def explode(hp, clip_norm):
    """Trains a plain network whose recurrent weights let gradients grow: loss and unclipped norm at every update."""
    values = {**hp.values, "cell": "simple", "length": LENGTHS[0], "recurrent_initializer": "orthogonal"}
    model, course = untrained(values), []
    kernel = model.get_layer("recurrent").cell.recurrent_kernel
    kernel.assign(hp["exploding_gain"] * kernel)
    optimizer = keras.optimizers.SGD(hp["exploding_rate"], global_clipnorm=clip_norm)

    @tf.function(jit_compile=hp["xla"])
    def gradients_of(sequences, sums):
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(model(sequences, training=True)[:, 0] - sums))
        gradients = tape.gradient(loss, model.trainable_variables)
        return gradients, loss, tf.linalg.global_norm(gradients)

    for sequences, sums in load_data(values, "train").repeat().take(hp["exploding_updates"]):
        gradients, *measured = gradients_of(sequences, sums)
        optimizer.apply(gradients, model.trainable_variables)
        course.append(measured)
    return np.array(course).T


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
    """How much of the gradient reaches each step of the longest sequences: one panel per cell type."""
    sequences, sums = (each[:100] for each in read(hp["length"], "validation", hp["examples"]))
    before, after = {"color": TRAINING, "linewidth": 4}, {"color": VALIDATION, "linewidth": 2}
    picture, axes = new(6, 6, rows=len(CELLS), sharex=True)
    for name, values in networks(hp).items():
        cell, bias, trained = values["cell"], values["gate_bias"], models.get(name, models["model"])
        if name in (f"{cell}-{hp['length']}", f"{cell}-{hp['length']}-keras"):
            ax, dashes = plain(axes[list(CELLS).index(cell)]), "-" if bias == "chrono" else "--"
            ax.set(title=CELLS[cell].__name__, ylabel="gradient left")
            ax.set(yscale="log", ylim=(1e-18, 1e2), yticks=[1, 1e-6, 1e-12, 1e-18])
            for when, model, style in (("before", untrained(values), before), ("after", trained, after)):
                label = f"{when} training, {bias} bias"
                ax.plot(gradient_left(model, sequences, sums), dashes, label=label, **style)
    axes[-1].set_xlabel("step (the loss is that of the last one)")
    picture.suptitle("Share of the gradient that reaches each step")
    picture.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return {"gradients": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
