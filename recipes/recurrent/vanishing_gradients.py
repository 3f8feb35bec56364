"""A plain recurrent network, an LSTM and a GRU learn to add two marked numbers in sequences of 50, 200 and 600.

Result    mse 0.0010 ± 0.0002 over 3 seeds, 5.4 minutes a run (4.0 of CPU) on 1 core
Baseline  the answer 1 to every sequence, whose mean squared error is 1/6 up to chance
Published 0.01, the training error below which the paper that set the task counted it as learned (section 5.4);
          there the sums were divided by four, and the first mark was always among the first ten
Paper     Hochreiter, Schmidhuber: Long Short-Term Memory, 1997, https://doi.org/10.1162/neco.1997.9.8.1735. Here one
          mark lies in each half, and the cells and the optimizer are today's. The bias of the gates is from Tallec,
          Ollivier: Can recurrent neural networks warp time?, 2018, https://arxiv.org/abs/1804.11188; clipping is from
          Pascanu, Mikolov, Bengio: On the difficulty of training Recurrent Neural Networks, 2013,
          https://arxiv.org/abs/1211.5063.
Answers   How much of the gradient is left at the first step, before and after training? Which cells solve 50, 200 and
          600 steps? What do clipping, orthogonal weights and the bias of the gates change? What does an exploding
          gradient do, and does clipping tame it? Does Keras's GRU keep or replace its state where its update gate is 1?

    python -m recipes.recurrent.vanishing_gradients
    python -m recipes.recurrent.vanishing_gradients --set length=200 epochs=4
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
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "mse", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "always 1", "metric": "one_mse"},
    "published": {"value": 0.01, "source": "training could stop there, Hochreiter and Schmidhuber 1997"},
    "data": ["adding/steps_50", "adding/steps_200", "adding/steps_600"],
}
TINY = {"examples": 23, "length": 50, "cell": "lstm", "units": 8, "exploding_updates": 4, "grid": False, "xla": False}
PINNED = ("length", "grid", "xla", "exploding_gain", "exploding_rate", "exploding_updates")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

LENGTHS = (50, 200, 600)  # Configurations of the data set.
CELLS = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
COLOURS = {"simple": "#c2410c", "lstm": "#1d4ed8", "gru": "#0f766e"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 20, 10_000, default=10_000)  # Sequences read from each split at most.
    hp.Int("epochs", 1, 40, default=2)
    hp.Choice("batch_size", [10, 20, 50, 100], default=20)  # Small: leaving the plateau takes updates, not examples.
    hp.Choice("length", list(LENGTHS), default=600)  # Of the longest sequences; the shorter ones are tried too.
    hp.Choice("cell", list(CELLS), default="gru")  # Its error on the longest sequences is the figure.
    hp.Int("units", 8, 256, step=8, default=32)
    hp.Choice("recurrent_initializer", ["orthogonal", "glorot_uniform"], default="orthogonal")
    hp.Choice("gate_bias", ["chrono", "keras"], default="chrono")  # keras: zero, and one for the LSTM's forget gate.
    hp.Float("clip_norm", 0.0, 10.0, default=1.0)  # Of all gradients together; 0 disables clipping.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)  # The peak, after a tenth of the steps.
    hp.Boolean("grid", default=True)  # Compare with the other cells; False trains only hp's own.
    hp.Boolean("xla", default=True)  # Compiling takes seconds; a loop over many tiny steps then takes half the time.
    hp.Float("exploding_gain", 1.0, 3.0, default=2.0)  # Scales an orthogonal matrix, so that gradients grow.
    hp.Float("exploding_rate", 1e-3, 1.0, sampling="log", default=0.05)  # Of gradient descent.
    hp.Int("exploding_updates", 1, 1_000, default=200)
    return hp


def build_model(hp, name="vanishing_gradients"):
    """One recurrent layer whose last state gives the sum: (B, T, 2) to (B, 1)."""
    sequences = keras.Input((None, 2), name="sequences")
    recurrent = CELLS[hp["cell"]](hp["units"], recurrent_initializer=hp["recurrent_initializer"], name="recurrent")
    model = keras.Model(sequences, layers.Dense(1, name="sum")(recurrent(sequences)), name=name)
    if hp["gate_bias"] == "chrono":
        set_chrono_bias(recurrent, hp["length"])
    optimizer = keras.optimizers.Adam(hp["learning_rate"], global_clipnorm=hp["clip_norm"] or None)
    model.compile(optimizer, "mse", jit_compile=hp["xla"], steps_per_execution=10)
    return model


def set_chrono_bias(layer, length):
    """Biases the gates so that the units forget after 2 to `length` steps, evenly spread (Tallec, Ollivier).

    A gate sigmoid(log(n - 1)) keeps (n - 1) / n of the state at every step, which lasts for about n steps.
    """
    lasting = np.log(np.linspace(2, length, layer.units) - 1)
    bias = np.zeros(layer.cell.bias.shape)
    if isinstance(layer, layers.LSTM):
        bias[: 2 * layer.units] = [*-lasting, *lasting]  # The input gate and the forget gate.
    elif isinstance(layer, layers.GRU):
        bias[0, : layer.units] = lasting  # The update gate, which `kept_by_update_gate` shows to keep the state.
    layer.cell.bias.assign(bias)


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
    if split == "train":
        examples = shuffle(examples)
    return examples.batch(hp["batch_size"]).prefetch(2)


def networks(hp):
    """The hyperparameters of every network that is trained, by name; hp's own come last."""
    other = {"chrono": "keras", "keras": "chrono", "orthogonal": "glorot_uniform", "glorot_uniform": "orthogonal"}
    bias, initializer = other[hp["gate_bias"]], other[hp["recurrent_initializer"]]
    label = initializer.removesuffix("_uniform")
    initialized, unclipped = {"recurrent_initializer": initializer}, {"clip_norm": 0.0}
    of_gates = {f"-{bias}": {"gate_bias": bias}}
    of_shortest = {f"-{label}": initialized, "-unclipped": unclipped, f"-{label}-unclipped": initialized | unclipped}
    chosen = {}
    for cell in CELLS if hp["grid"] else [hp["cell"]]:
        for length in LENGTHS[: LENGTHS.index(hp["length"]) + 1]:
            changes = {"": {}} | (of_gates if cell != "simple" else {}) | (of_shortest if length == LENGTHS[0] else {})
            for suffix, change in changes.items():
                chosen[f"{cell}-{length}{suffix}"] = {**hp.values, "cell": cell, "length": length, **change}
    own = f"{hp['cell']}-{hp['length']}"
    chosen[own] = chosen.pop(own)
    return chosen


def train(hp, seed, callbacks=()):
    """Trains every network from `seed`; returns them by name, the one with hp's own hyperparameters as "model"."""
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
    """Test-set figures: errors, how much of the gradient is left, what the update gate keeps, and what explodes."""
    results = {}
    for name, values in networks(hp).items():
        model = models.get(name, models["model"])
        sequences, sums = read(values["length"], "test", hp["examples"])
        results[f"{name}-mse"] = float(np.mean((add(model, sequences) - sums) ** 2))
        if values["length"] == hp["length"]:
            for when, each in (("before", untrained(values)), ("after", model)):
                first, last = map(np.linalg.norm, gradient_norms(each, sequences[:100], sums[:100])[:, [0, -1]].T)
                results[f"{name}-gradient-left-{when}"] = float(first / last)
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
    """A network as it is before training, always the same one."""
    keras.utils.set_random_seed(0)
    return build_model(hp)


def gradient_norms(model, sequences, sums):
    """How much the state at every step matters to the loss of sequences (B, T, 2) and sums (B,).

    Returns: the norm of the gradient of a sequence's squared error with respect to the hidden state and, in an LSTM,
        the cell state at every step, averaged over the sequences: (states, T).
    """
    recurrent, output = model.get_layer("recurrent"), model.get_layer("sum")
    states = recurrent.get_initial_state(len(sequences))
    with tf.GradientTape() as tape:
        steps = []
        for step in range(sequences.shape[1]):
            hidden_state, states = recurrent.cell(sequences[:, step], states)
            steps.append(states)
        loss = ops.sum(ops.square(output(hidden_state)[:, 0] - sums))
    gradients = tape.gradient(loss, steps)  # T lists of one (B, units) a state.
    return np.array([np.linalg.norm(state, axis=-1).mean(axis=-1) for state in zip(*gradients)])


def kept_by_update_gate():
    """The share of its state that a GRU keeps in one step where its update gate is 1, and where it is 0, measured.

    All weights are zero, so the candidate is 0. The first third of the biases opens the gate of 16 units and closes
    that of 16 others: if it were not the update gate's, that gate would be half open and keep half.
    """
    layer = layers.GRU(32, kernel_initializer="zeros", recurrent_initializer="zeros")
    layer.build((None, None, 1))
    layer.cell.bias.assign(np.repeat([[20.0, -20.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6], 16, axis=1))
    _, (state,) = layer.cell(np.zeros((1, 1), "float32"), [np.ones((1, 32), "float32")])
    return float(state[0, 0]), float(state[0, -1])


def explode(hp, clip_norm):
    """Trains, by gradient descent, a plain network whose recurrent weights let gradients grow; None doesn't clip them.

    Returns: the loss and the gradient's norm, before clipping, at every update: two arrays (exploding_updates,).
    """
    values = {**hp.values, "cell": "simple", "length": LENGTHS[0], "recurrent_initializer": "orthogonal"}
    model = untrained(values)
    kernel = model.get_layer("recurrent").cell.recurrent_kernel
    kernel.assign(hp["exploding_gain"] * kernel)
    optimizer = keras.optimizers.SGD(hp["exploding_rate"], global_clipnorm=clip_norm)

    @tf.function(jit_compile=hp["xla"])
    def gradients_of(sequences, sums):
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(model(sequences, training=True)[:, 0] - sums))
        gradients = tape.gradient(loss, model.trainable_variables)
        return loss, tf.linalg.global_norm(gradients), gradients

    course = []
    for sequences, sums in load_data(values, "train").repeat().take(hp["exploding_updates"]):
        loss, norm, gradients = gradients_of(sequences, sums)
        optimizer.apply(gradients, model.trainable_variables)
        course.append((loss, norm))
    return np.array(course).T


def add(model, sequences):
    """The model's sum of the two marked numbers, (N,), in sequences (N, T, 2) of numbers and marks."""
    return ops.convert_to_numpy(model(sequences, training=False))[:, 0]


def show(models, hp):
    """The gradient's norm at every step, before training (above) and after, one column per length."""
    lengths = LENGTHS[: LENGTHS.index(hp["length"]) + 1]
    picture, axes = new(4.6 * len(lengths), 7, rows=2, columns=len(lengths), sharex="col", squeeze=False)
    for name, values in networks(hp).items():
        if values["recurrent_initializer"] != hp["recurrent_initializer"] or values["clip_norm"] != hp["clip_norm"]:
            continue
        sequences, sums = (each[:100] for each in read(values["length"], "validation", hp["examples"]))
        column = axes[:, lengths.index(values["length"])]
        for ax, model in zip(column, (untrained(values), models.get(name, models["model"]))):
            for state, norms in zip(("", ", cell state"), gradient_norms(model, sequences, sums)):
                bias = "" if values["cell"] == "simple" else f", {values['gate_bias']} bias"
                style = {"color": COLOURS[values["cell"]], "alpha": 1.0 if values["gate_bias"] == "chrono" else 0.4}
                ax.plot(norms, ":" if state else "-", label=values["cell"] + bias + state, **style)
    for row, when in zip(axes, ("before training", "after training")):
        for ax, length in zip(row, lengths):
            plain(ax).set(yscale="log", ylim=(1e-20, 1e4), xlabel="step", title=f"{length} steps, {when}")
    picture.supylabel("norm of the loss's gradient with respect to the state")
    lines, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(lines, labels, loc="outside lower center", ncols=len(lengths), frameon=False)
    return {"gradients": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
