"""A plain recurrent network, an LSTM and a GRU learn to add two marked numbers out of 50, 200 and 600.

Result    mse 0.0010 ± 0.0002 over 3 seeds, 5.4 minutes a run (4.0 of CPU) on 1 core
Baseline  the answer 1 to every sequence; its mean squared error is 1/6 but for chance
Anchor    0.01, the training error below which the task counted as learned where it was set (section 5.4 of the paper);
          there the sums were divided by four, and the first mark was always among the first ten
Paper     Hochreiter, Schmidhuber: Long Short-Term Memory, 1997, https://doi.org/10.1162/neco.1997.9.8.1735. Here the
          marks lie one in each half, and cells and optimizer are of today. The bias of the gates is that of Tallec,
          Ollivier: Can recurrent neural networks warp time?, 2018, https://arxiv.org/abs/1804.11188; clipping that of
          Pascanu, Mikolov, Bengio: On the difficulty of training Recurrent Neural Networks, 2013,
          https://arxiv.org/abs/1211.5063.
Answers   How much of the gradient is left at the first step, before training and after? Who solves 50, 200 and 600
          steps? What do clipping, orthogonal weights and the bias of the gates change? What does an exploding gradient
          do, and does clipping tame it? Does the update gate of Keras's GRU, where it is 1, keep or replace the state?

    python -m recipes.recurrent.vanishing_gradients
    python -m recipes.recurrent.vanishing_gradients --set length=200 epochs=4
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from common import data, plots, runner, training
from common.datasets import adding

PROMISE = {
    "figure": {"metric": "mse", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "always 1", "metric": "one_mse"},
    "anchor": {"value": 0.01, "source": "training could stop there, Hochreiter and Schmidhuber 1997"},
    "data": ["adding"],
}
TINY = {"examples": 64, "epochs": 2, "length": 50, "units": 8, "exploding_updates": 4, "grid": False, "xla": False}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}
LENGTHS = (50, 200, 600)  # Configurations of the data set.
CELLS = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
COLOURS = {"simple": "#c2410c", "lstm": "#1d4ed8", "gru": "#0f766e"}
SOLVED = 0.01  # A mean squared error, the anchor's.
FLOOR = 1e-20  # Of the gradient's picture: below, nothing is left that a float32 update could feel.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 20, 10_000, default=10_000)  # Sequences read from each split at most.
    hp.Int("epochs", 1, 40, default=2)
    hp.Choice("batch_size", [10, 20, 50, 100], default=20)  # Small: leaving the plateau takes updates, not examples.
    hp.Choice("length", list(LENGTHS), default=600)  # Of the longest sequences; the shorter ones are tried too.
    hp.Choice("cell", list(CELLS), default="gru")  # All are trained; this one's error on the longest is the figure.
    hp.Int("units", 8, 256, step=8, default=32)
    hp.Choice("recurrent_initializer", ["orthogonal", "glorot_uniform"], default="orthogonal")
    hp.Choice("gate_bias", ["chrono", "keras"], default="chrono")  # keras: zero, and one for the LSTM's forget gate.
    hp.Float("clip_norm", 0.0, 10.0, default=1.0)  # Of all gradients together; 0 doesn't clip.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)  # The peak, after a tenth of the steps.
    hp.Boolean("grid", default=True)  # Try clipping and initialisation too, with the shortest sequences.
    hp.Boolean("xla", default=True)  # Compiling takes seconds; a loop over many tiny steps then takes half the time.
    hp.Float("exploding_gain", 1.0, 3.0, default=2.0)  # Times an orthogonal matrix: weights that let gradients grow.
    hp.Float("exploding_rate", 1e-3, 1.0, sampling="log", default=0.05)  # Of gradient descent.
    hp.Int("exploding_updates", 1, 1_000, default=200)
    return hp


def load_data(hp, split):
    """Batches of sequences (B, T, 2), each step a number and whether it is marked, and sums (B,)."""
    builder = functools.partial(adding.Builder, config=f"steps_{hp['length']}")

    def sequence_and_sum(example):
        marks = tf.reduce_max(tf.one_hot(example["marked"], hp["length"]), axis=0)
        return tf.stack([example["numbers"], marks], axis=-1), example["sum"]

    examples = data.load(builder, SPLITS[split], hp["examples"]).map(sequence_and_sum).cache()
    if split == "train":
        examples = data.shuffle(examples)
    return examples.batch(hp["batch_size"]).prefetch(2)


def build_model(hp):
    """One recurrent layer whose last state gives the sum: (B, T, 2) to (B, 1)."""
    sequences = keras.Input((None, 2), name="sequences")
    cell = CELLS[hp["cell"]]
    recurrent = cell(hp["units"], recurrent_initializer=hp["recurrent_initializer"], name="recurrent")
    total = layers.Dense(1, name="sum")(recurrent(sequences))
    model = keras.Model(sequences, total, name="vanishing_gradients")
    if hp["gate_bias"] == "chrono":
        set_chrono_bias(recurrent, hp["length"])
    steps = hp["epochs"] * -(-hp["examples"] // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=hp["clip_norm"] or None)
    model.compile(optimizer, "mse", jit_compile=hp["xla"], steps_per_execution=10)
    return model


def set_chrono_bias(layer, length):
    """Biases the gates so that the units forget after 2 to `length` steps, evenly spread (Tallec, Ollivier).

    A gate sigmoid(log(n - 1)) keeps (n - 1) / n of the state at every step: that lasts for about n steps.
    """
    lasting = np.log(np.linspace(2, length, layer.units) - 1)
    bias = np.zeros(layer.cell.bias.shape)
    if isinstance(layer, layers.LSTM):
        bias[: layer.units] = -lasting  # The input gate.
        bias[layer.units : 2 * layer.units] = lasting  # The forget gate.
    elif isinstance(layer, layers.GRU):
        bias[0, : layer.units] = lasting  # The update gate, which `kept_by_update_gate` shows to keep the state.
    layer.cell.bias.assign(bias)


def changed(hp, **values):
    """A copy of the hyperparameters with other values for some."""
    other = hp.copy()
    other.values.update(values)
    return other


def networks(hp):
    """The hyperparameters of every network that is trained, by name; hp's own come last."""
    lengths = [length for length in LENGTHS if length <= hp["length"]]
    gate_bias = {"chrono": "keras", "keras": "chrono"}[hp["gate_bias"]]
    initializer = {"orthogonal": "glorot_uniform", "glorot_uniform": "orthogonal"}[hp["recurrent_initializer"]]
    label = initializer.removesuffix("_uniform")
    chosen = {}
    for cell in CELLS:
        for length in lengths:
            chosen[f"{cell}-{length}"] = changed(hp, cell=cell, length=length)
            if cell != "simple":
                chosen[f"{cell}-{length}-{gate_bias}"] = changed(hp, cell=cell, length=length, gate_bias=gate_bias)
        if hp["grid"]:
            shortest = changed(hp, cell=cell, length=lengths[0])
            other = changed(shortest, recurrent_initializer=initializer)
            chosen[f"{cell}-{lengths[0]}-{label}"] = other
            chosen[f"{cell}-{lengths[0]}-unclipped"] = changed(shortest, clip_norm=0.0)
            chosen[f"{cell}-{lengths[0]}-{label}-unclipped"] = changed(other, clip_norm=0.0)
    own = f"{hp['cell']}-{hp['length']}"
    return {**{name: values for name, values in chosen.items() if name != own}, own: chosen[own]}


def train(hp, seed, callbacks=training.callbacks):
    """Trains every network from `seed`; returns them by name, first the one of hp's own hyperparameters."""
    models = {}
    for name, values in networks(hp).items():
        keras.utils.set_random_seed(seed)
        batches = load_data(values, "train")
        models[name] = build_model(values)
        models[name].fit(
            batches,
            validation_data=load_data(values, "validation"),
            epochs=hp["epochs"],
            callbacks=callbacks(name, hp["examples"]),
            verbose=0,
            shuffle=False,
        )
    return dict(reversed(models.items()))


def add(model, sequences):
    """The sum of the two marked numbers, (N,), of sequences (N, T, 2) of numbers and marks, as the model has it."""
    return ops.convert_to_numpy(model(sequences, training=False))[:, 0]


def read(hp, split):
    """The whole split as arrays: sequences (N, T, 2) and sums (N,)."""
    return tuple(map(np.concatenate, zip(*load_data(hp, split).as_numpy_iterator())))


def mean_squared_errors(models, hp, split):
    """Every network's mean squared error, by name."""
    found = {}
    for name, values in networks(hp).items():
        sequences, sums = read(values, split)
        found[name] = float(np.mean((add(models[name], sequences) - sums) ** 2))
    return found


def untrained(hp):
    """A network as it is before training, always the same one."""
    keras.utils.set_random_seed(0)
    return build_model(hp)


def gradient_norms(model, sequences, sums):
    """How much the state at every step matters to the loss: backpropagation through time, step by step.

    sequences (B, T, 2), sums (B,).

    Returns:
        One array (T,) a state: the hidden state, and for an LSTM the cell state. It holds the norm of the gradient of
        a sequence's squared error with respect to that state, mean over the sequences.
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
    return [np.array([np.linalg.norm(each, axis=-1).mean() for each in state]) for state in zip(*gradients)]


def gradient_left(norms):
    """How much of the last step's gradient is left at the first step, all states together."""
    first, last = (np.linalg.norm([state[step] for state in norms]) for step in (0, -1))
    return float(first / last)


def kept_by_update_gate(units=32):
    """The share of its state that a GRU keeps in one step where its update gate is 1, and where it is 0, measured.

    All weights are zero, so the candidate is 0. The first third of the biases opens or closes the gate: were that not
    the update gate's, it would stand at a half and keep half.
    """
    layer = layers.GRU(units, kernel_initializer="zeros", recurrent_initializer="zeros")
    layer.build((None, None, 1))
    shares = []
    for bias in (20.0, -20.0):
        layer.cell.bias.assign(np.repeat([[bias, 0.0, 0.0], [0.0, 0.0, 0.0]], units, axis=1))
        _, (state,) = layer.cell(np.zeros((1, 1), "float32"), [np.ones((1, units), "float32")])
        shares.append(float(ops.mean(state)))
    return shares


def explode(hp, clip_norm):
    """Trains a plain network whose recurrent weights let gradients grow by gradient descent.

    clip_norm: of all gradients together; None doesn't clip.

    Returns:
        Loss and norm of the gradient, before clipping, at every update: two arrays (exploding_updates,).
    """
    values = changed(hp, cell="simple", length=LENGTHS[0], recurrent_initializer="orthogonal")
    model = untrained(values)
    data.set_epoch(0)
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


def evaluate(models, hp):
    """Test-set figures: errors, how much of the gradient is left, what the gate keeps, and what explodes."""
    sequences, sums = read(hp, "test")
    results = mean_squared_errors(models, hp, "test")
    results = {
        "mse": results[f"{hp['cell']}-{hp['length']}"],
        "one_mse": float(np.mean((1 - sums) ** 2)),
        **{f"{name}-mse": error for name, error in results.items()},
    }
    for name, values in networks(hp).items():
        if values["length"] == hp["length"]:
            for when, model in (("before", untrained(values)), ("after", models[name])):
                norms = gradient_norms(model, sequences[:100], sums[:100])
                results[f"{name}-gradient-left-{when}"] = gradient_left(norms)
    results["gru-kept-at-1"], results["gru-kept-at-0"] = kept_by_update_gate()
    for name, clip_norm in (("unclipped", None), ("clipped", 1.0)):
        losses, norms = explode(hp, clip_norm)
        finite = np.isfinite(losses) & np.isfinite(norms)
        results[f"exploding-{name}-largest-norm"] = norms[finite].max()
        results[f"exploding-{name}-finite-updates"] = finite.sum()
    results["exploding-clipped-mse"] = losses[-20:].mean()
    return results


def draw_gradients(models, hp):
    """The gradient's norm against the time step, before training (above) and after, one column a length."""
    lengths = [length for length in LENGTHS if length <= hp["length"]]
    picture, axes = plots.new(4.6 * len(lengths), 7, rows=2, columns=len(lengths), sharex="col", squeeze=False)
    for name, values in networks(hp).items():
        if values["recurrent_initializer"] != hp["recurrent_initializer"] or values["clip_norm"] != hp["clip_norm"]:
            continue
        sequences, sums = (each[:100] for each in read(values, "validation"))
        for ax, model in zip(axes[:, lengths.index(values["length"])], (untrained(values), models[name])):
            for state, norms in zip(("", ", cell state"), gradient_norms(model, sequences, sums)):
                bias = "" if values["cell"] == "simple" else f", {values['gate_bias']} bias"
                label = values["cell"] + bias + state
                style = {"color": COLOURS[values["cell"]], "alpha": 1.0 if values["gate_bias"] == "chrono" else 0.4}
                ax.plot(np.maximum(norms, FLOOR), ":" if state else "-", label=label, **style)
    for ax, length in zip(axes[0], lengths):
        ax.set(title=f"{length} steps")
    for row, when in zip(axes, ("before training", "after training")):
        for ax in row:
            plots.plain(ax).set(yscale="log", ylim=(FLOOR, 1e4))
        row[0].set(ylabel=f"norm of the loss's gradient\nwith respect to the state, {when}")
    for ax in axes[1]:
        ax.set(xlabel="step")
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return picture


def draw_errors(found):
    """Every network's error, coloured by its cell."""
    names = sorted(found, key=lambda name: (int(name.split("-")[1]), found[name]), reverse=True)
    picture, ax = plots.new(8, 6.5)
    ax.scatter([found[name] for name in names], names, color=[COLOURS[name.split("-")[0]] for name in names])
    for error, meaning in ((1 / 6, "always 1"), (SOLVED, "solved")):
        ax.axvline(error, color=plots.MUTED, zorder=0)
        ax.text(error, len(names) - 0.4, meaning, ha="center", va="bottom", color="#64748b")
    plots.plain(ax).set(xscale="log", xlabel="mean squared error, validation", ylim=(-0.7, len(names) - 0.5))
    return picture


def draw_explosion(hp):
    """Norm of the gradient and loss at every update of the explosive network, unclipped and clipped."""
    picture, axes = plots.new(10, 3.8, columns=2)
    for label, clip_norm, colour in (("unclipped", None, plots.VALIDATION), ("clipped to 1", 1.0, COLOURS["lstm"])):
        losses, norms = explode(hp, clip_norm)
        for ax, course in zip(axes, (norms, losses)):
            ax.plot(np.where(np.isfinite(course), course, np.nan), color=colour, label=label)
    for ax, label in zip(axes, ("norm of the gradient, before clipping", "mean squared error")):
        plots.plain(ax).set(yscale="log", xlabel="update", ylabel=label)
    axes[0].legend(frameon=False)
    return picture


def show(models, hp):
    """The gradient's way back through time, who solves which length, an explosion, and what the update gate does."""
    kept_at_one, kept_at_zero = kept_by_update_gate()
    gate = f"Keras's GRU keeps {kept_at_one:.0%} of its state where the update gate is 1, {kept_at_zero:.0%} where it is 0."
    return {
        "gradients": draw_gradients(models, hp),
        "errors": draw_errors(mean_squared_errors(models, hp, "validation")),
        "explosion": draw_explosion(hp),
        "update_gate": gate,
    }


if __name__ == "__main__":
    runner.run(__spec__.name)
