"""A GRU reads three weeks of ETTh1, a day at each step, and forecasts the next 96 hours of all seven curves.

Result    mse 0.3566 ± 0.0003 over 3 seeds, 2.1 minutes a run (1.5 of CPU) on 1 core
Baseline  least squares from the same look-back to the same 96 hours; and two that learn nothing: the last hour, and
          the last day, repeated
Anchor    MSE 0.375, DLinear, which looks back 336 hours; here it is 504 (Zeng, Chen, Zhang, Xu: Are Transformers
          Effective for Time Series Forecasting?, 2022, https://arxiv.org/abs/2205.13504)
Paper     Lin, Lin, Wu, Zhao, Mo, Zhang: SegRNN, 2023, https://arxiv.org/abs/2308.11200. From there the segments as time
          steps, and the last hour taken away; but one Dense layer writes all hours at once, where SegRNN's GRU makes
          a step for every segment. The autoregressive variant is what the paper calls recurrent multi-step forecasting.
Answers   Does a recurrent network beat a linear map, and both the last day repeated? Is it better to write all hours
          at once, or day after day, reading one's own forecast? How much does each further day ahead cost? What
          does it bring to take the window's level away, and to look back further?

    python -m recipes.recurrent.forecasting
    python -m recipes.recurrent.forecasting --set cell=lstm look_back=720

Splits of 12, 4 and 4 months, curves standardised by the train part alone, all seven curves in every figure: the usual
ones. Every window of the test part counts once, 2,785 in all; codes that evaluate in full batches alone drop the last
ones, which changes the figure (Qiu et al.: TFB, 2024, https://arxiv.org/abs/2403.20150).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn import linear_model

from common import data, plots, runner, training
from common.datasets import etth1

PROMISE = {
    "figure": {"metric": "mse", "better": "lower"},
    "monitor": {"metric": "val_mse", "better": "lower"},
    "baseline": {"name": "least squares", "metric": "linear_mse"},
    "anchor": {"value": 0.375, "source": "DLinear, look-back 336"},
    "data": ["etth1"],
}
TINY = {"examples": 1000, "epochs": 2, "look_back": 96, "units": 8}
VARIANTS = {
    "autoregressive": {"decoder": "autoregressive"},
    "LSTM": {"cell": "lstm"},
    "level not taken away": {"subtract_last": False},
    "look-back of 4 days": {"look_back": 96},
    "look-back of 14 days": {"look_back": 336},
}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}
# The first forecast of a part starts at its first hour, and looks back into the part before.
BEFORE = {"validation": "train", "test": "validation"}
VARIABLES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
HORIZON = 96  # hours


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 8640, default=8640)  # Hours read from each part at most.
    hp.Int("epochs", 1, 30, default=6)
    hp.Choice("batch_size", [32, 64, 128], default=64)  # Windows; each holds seven curves.
    hp.Choice("look_back", [96, 192, 336, 504, 720], default=504)  # Hours: four days to a month.
    hp.Choice("segment", [6, 12, 24], default=24)  # Hours in one step of the recurrent network.
    hp.Choice("cell", ["gru", "lstm"], default="gru")
    hp.Choice("decoder", ["direct", "autoregressive"], default="direct")  # All hours at once, or segment by segment.
    hp.Boolean("subtract_last", default=True)  # Forecast the difference to the last hour: levels drift over the year.
    hp.Int("units", 8, 512, step=8, default=128)
    hp.Float("dropout", 0.0, 0.7, default=0.3)  # Of the state, before the output.
    hp.Choice("loss", ["mae", "mse"], default="mae")  # The absolute error lets outliers pull less.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak, after a tenth of the steps.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


def read(part, examples):
    """A part's hours in order of time, (hours, 7), float32, in the units of the file."""
    hours = data.load(etth1.Builder, part, examples).batch(examples).get_single_element()
    return np.stack([hours[variable].numpy() for variable in VARIABLES], axis=1)


def windows(hp, split):
    """Every window of a part, an hour apart, standardised: what was (N, look_back, 7), what came (N, 96, 7)."""
    train_hours = read(SPLITS["train"], hp["examples"])
    hours = read(SPLITS[split], hp["examples"])
    if split in BEFORE:
        before = read(f"{BEFORE[split]}[-{hp['look_back']}:]", hp["look_back"])
        hours = np.concatenate([before, hours])
    hours = (hours - train_hours.mean(axis=0)) / train_hours.std(axis=0)
    views = np.lib.stride_tricks.sliding_window_view(hours, hp["look_back"] + HORIZON, axis=0).swapaxes(1, 2)
    return views[:, : hp["look_back"]], views[:, hp["look_back"] :]


def load_data(hp, split):
    """Batches of what was (B, look_back, 7) and what came (B, 96, 7), standardised."""
    dataset = tf.data.Dataset.from_tensor_slices(windows(hp, split))
    if split == "train":
        dataset = data.shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(2)


def build_model(hp):
    """From what was (B, look_back, 7) to the forecast (B, 96, 7): one network for all curves, one curve at a time."""
    look_back, segment, units = hp["look_back"], hp["segment"], hp["units"]
    recurrent = {"gru": layers.GRU, "lstm": layers.LSTM}[hp["cell"]](units, return_state=True, name="recurrent")
    embedding = layers.Dense(units, activation="relu", name="segment_embedding")
    dropout = layers.Dropout(hp["dropout"])

    history = keras.Input((look_back, len(VARIABLES)), name="history")
    curves = ops.transpose(history, (0, 2, 1))  # (B, 7, look_back)
    level = curves[:, :, -1:] if hp["subtract_last"] else ops.zeros_like(curves[:, :, -1:])  # (B, 7, 1)
    segments = ops.reshape(curves - level, (-1, look_back // segment, segment))  # (B * 7, steps, segment)
    output, *states = recurrent(embedding(segments))  # All (B * 7, units).

    if hp["decoder"] == "direct":
        ahead = layers.Dense(HORIZON, name="forecast")(dropout(output))  # (B * 7, 96)
    else:
        write = layers.Dense(segment, name="forecast")
        written = [write(dropout(output))]
        # It learns as it will be used, from its own forecasts: with the true ones it would never see its own errors.
        for _ in range(HORIZON // segment - 1):
            step = ops.expand_dims(embedding(written[-1]), axis=1)  # (B * 7, 1, units)
            output, *states = recurrent(step, initial_state=states)
            written.append(write(dropout(output)))
        ahead = ops.concatenate(written, axis=1)  # (B * 7, 96)
    ahead = ops.reshape(ahead, (-1, len(VARIABLES), HORIZON)) + level
    model = keras.Model(history, ops.transpose(ahead, (0, 2, 1)), name="forecasting")

    steps = hp["epochs"] * -(-(hp["examples"] - look_back - HORIZON + 1) // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=max(1, steps // 10)
    )
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=hp["clip_norm"]),
        loss=hp["loss"],
        metrics=["mse", "mae"],
        steps_per_execution=16,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("forecasting", examples=hp["examples"] - hp["look_back"] - HORIZON + 1),
        verbose=0,
        shuffle=False,
    )
    return model


def linear_forecast(hp, history):
    """The baseline: least squares on the train part, one map for all curves; like `history`, (N, 96, 7), standardised.

    DLinear's two maps, of a moving average and of the rest, add up to one such map, and least squares finds it without
    steps (Toner and Darlow: An Analysis of Linear Time Series Forecasting Models, 2024,
    https://arxiv.org/abs/2403.14587).
    """

    def curves_of(values):  # (N, T, 7) to (N * 7, T)
        return np.swapaxes(values, 1, 2).reshape(-1, values.shape[1])

    known, target = map(curves_of, windows(hp, "train"))
    # The penalty keeps the solution stable; from 10 to 1,000 it hardly matters on validation.
    ridge = linear_model.Ridge(alpha=1000.0).fit(known - known[:, -1:], target - known[:, -1:])
    asked = curves_of(history)
    answer = ridge.predict(asked - asked[:, -1:]) + asked[:, -1:]
    return np.swapaxes(answer.reshape(len(history), len(VARIABLES), HORIZON), 1, 2)


def forecasts(model, hp, history):
    """Every forecaster's 96 hours after `history` (N, look_back, 7), by name, each (N, 96, 7)."""
    return {
        "network": model.predict(history, batch_size=256, verbose=0),
        "linear": linear_forecast(hp, history),
        "last day": np.tile(history[:, -24:], (1, HORIZON // 24, 1)),
        "last hour": np.tile(history[:, -1:], (1, HORIZON, 1)),
    }


def evaluate(model, hp):
    """Errors on every window of the test part, of standardised curves, and those of the baselines."""
    history, future = windows(hp, "test")
    results = {}
    for name, answer in forecasts(model, hp, history).items():
        prefix = "" if name == "network" else name.replace(" ", "_") + "_"
        error = answer - future
        results |= {f"{prefix}mse": float(np.mean(error**2)), f"{prefix}mae": float(np.mean(np.abs(error)))}
        if name == "network":
            by_day = np.mean(error.reshape(len(error), -1, 24, len(VARIABLES)) ** 2, axis=(0, 2, 3))
            results |= {f"mse_day_{day}": float(each) for day, each in enumerate(by_day, 1)}
    return results


def assets(hp):
    """What standardises the curves, as `forecast` wants it."""
    hours = read(SPLITS["train"], hp["examples"])
    rows = zip(VARIABLES, hours.mean(axis=0), hours.std(axis=0))
    return {"scale.csv": "\n".join(["variable,mean,deviation", *(f"{name},{m},{d}" for name, m, d in rows)])}


def forecast(model, hours, scale):
    """Forecasts the 96 hours after the last one.

    hours: what was, (look_back or more, 7), in the units of the file, in the order of VARIABLES.
    scale: path of scale.csv.
    Returns: (96, 7), in the units of the file.
    """
    mean, deviation = np.loadtxt(scale, delimiter=",", skiprows=1, usecols=(1, 2), unpack=True)
    history = ((hours - mean) / deviation)[-model.input_shape[1] :]
    return model.predict(history[None], verbose=0)[0] * deviation + mean


def show(model, hp):
    """Two forecasts with what came, the error by hours ahead, and by curve; all of the validation part."""
    history, future = windows(hp, "validation")
    everyone = forecasts(model, hp, history)
    errors = {name: (each - future) ** 2 for name, each in everyone.items()}  # (N, 96, 7)
    ranks = np.argsort(errors["network"].mean(axis=(1, 2)))
    chosen = {
        "typical: half are better": ranks[len(ranks) // 2],
        "bad: nine in ten are better": ranks[len(ranks) * 9 // 10],
    }
    colours = {"network": plots.VALIDATION, "linear": "#0f766e", "last day": plots.TRAINING, "last hour": plots.MUTED}

    picture, axes = plots.new(12, 9, rows=3, columns=2, sharex=True)
    ahead = np.arange(1, HORIZON + 1)
    for column, (title, window) in enumerate(chosen.items()):
        for row, variable in enumerate(("HUFL", "MULL", "OT")):
            index, ax = VARIABLES.index(variable), plots.plain(axes[row, column])
            ax.plot(np.arange(-95, 1), history[window, -96:, index], color="black", linewidth=1)
            ax.plot(ahead, future[window, :, index], color="black", linewidth=1, label="what came")
            for name in ("linear", "network"):
                ax.plot(ahead, everyone[name][window, :, index], color=colours[name], label=name)
            ax.axvline(0, color=plots.MUTED, zorder=0)
            ax.set_ylabel(f"{variable}, standardised")
        axes[0, column].set_title(f"window {window}, {title}")
        axes[2, column].set(xlabel="hours from now", xticks=range(-96, 97, 24))
    axes[0, 0].legend(frameon=False)

    by_hour, ax = plots.new(8, 4.5)
    for name, error in errors.items():
        plots.plain(ax).plot(ahead, error.mean(axis=(0, 2)), color=colours[name], label=name)
    ax.set(xlabel="hours ahead", ylabel="mean squared error, validation", xticks=range(0, 97, 24))
    ax.legend(frameon=False)

    table = ["Mean squared error on validation", "          " + "".join(f"{variable:>8}" for variable in VARIABLES)]
    table += [
        f"{name:10}" + "".join(f"{each:8.3f}" for each in error.mean(axis=(0, 1))) for name, error in errors.items()
    ]
    return {"forecasts": picture, "error_by_hour": by_hour, "error_by_curve": "\n".join(table)}


if __name__ == "__main__":
    runner.run(__spec__.name)
