"""An LSTM autoencoder learns ordinary stretches of three Numenta series; one that it cannot redraw raises the alarm.

Result    average precision 0.4084 ± 0.0041 over 3 seeds, 2.0 minutes a run (1.4 of CPU) on 1 core
Baseline  rolling z-score: how far a reading is from the mean of those before, in their standard deviations
Anchor    F1 0.331, mean over the seven series of realKnownCause, a bidirectional LSTM with attention that forecasts
          (Mishra, Kshirsagar, Dwivedula, Hota: Attention-Based Bi-LSTM for Anomaly Detection on Time-Series Data,
          2021, https://github.com/Varad2305/Time-Series-Anomaly-Detection; DeepAnT has 0.200 there). Three of the
          seven are here, and other parts of them, so it tells the order of magnitude only.
Paper     Malhotra et al.: LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection, 2016,
          https://arxiv.org/abs/1607.00148. As there, the decoder writes backwards, and labels choose the threshold;
          here it reads a narrow code at every step, never its own output, and the squared error itself is the score.
Answers   Do errors of reconstruction tell more than a z-score? How far is the F1 of a threshold chosen on one anomaly
          from that of the best one? How many anomalies are found, at how many false alarms? Does a wide code, which
          holds more, tell less?

    python -m recipes.recurrent.anomaly_detection
    python -m recipes.recurrent.anomaly_detection --set code=2

Every series is split by time: an ordinary beginning to train on, a part with the first labelled anomaly to choose the
threshold, the rest for test, with nine anomalies. One anomaly a series is little to choose by, and the next ones are of
other kinds (a marathon, then a blizzard). Labels are windows that NAB made wide on purpose, and most readings in them
look ordinary: an average precision of 1 is out of reach, and guessing gets the share of labelled readings.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn import metrics

from common import data, plots, runner, training
from common.datasets import numenta

PROMISE = {
    "figure": {"metric": "average_precision", "better": "higher"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "rolling z-score", "metric": "zscore_average_precision"},
    "anchor": {"metric": "f1", "value": 0.331, "source": "F1 of a Bi-LSTM with attention, seven series"},
    "data": ["numenta"],
}
TINY = {"examples": 100, "epochs": 2, "window": 24, "units": 4, "code": 2}
VARIANTS = {"code of 2": {"code": 2}, "code of 32": {"code": 32}}
SPLITS = {
    "train": "nyc_taxi[:4800]+machine_temperature[:1440]+request_latency[:1440]",
    "validation": "nyc_taxi[4800:6562]+machine_temperature[1440:3198]+request_latency[1440:2738]",
    "test": "nyc_taxi[6562:]+machine_temperature[3198:]+request_latency[2738:]",
}
# Where the parts of each series begin and end: midway between two labelled windows, but for the ordinary beginning.
BORDERS = {
    "nyc_taxi": (0, 4800, 6562, 10_320),
    "machine_temperature": (0, 1440, 3198, 22_695),
    "request_latency": (0, 1440, 2738, 4032),
}
COUNTS = ("anomalies", "anomalies_found", "false_alarms")  # Figures that add up over the series; of others, the mean.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 5000, default=5000)  # Windows of each series to train on, at most.
    hp.Int("epochs", 1, 100, default=20)
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Choice("window", [24, 48, 96], default=48)  # Readings: a day of taxis, four hours of the others.
    hp.Int("units", 4, 256, step=4, default=64)
    hp.Int("code", 1, 64, default=8)  # All that the decoder knows of a window: a wide one could hold any window.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=5e-3)  # The peak, after a tenth of the steps.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


@functools.cache
def read(series, split, before=0):
    """A part of a series: readings (N,), float32, and the number of the labelled window of each (N,), 0 for none.

    before: so many readings ahead of the part come first, or all that there are.
    """
    index = list(SPLITS).index(split)
    begin, end = BORDERS[series][index : index + 2]
    part = data.load(numenta.Builder, f"{series}[{max(0, begin - before)}:{end}]")
    readings = part.batch(end).get_single_element()
    return readings["value"].numpy(), readings["anomaly"].numpy()


def windows(hp, series, split):
    """The window that ends at each reading of a part, standardised by the train part.

    The series itself begins with one whole window, so that its first readings have none.

    Returns: windows (N, window, 1), the label of the reading at each one's end (N,), whether it holds any label (N,).
    """
    window = hp["window"]
    train_values, _ = read(series, "train")
    values, labels = read(series, split, before=window - 1)
    values = (values - train_values.mean()) / train_values.std()
    views = np.lib.stride_tricks.sliding_window_view(values, window)
    touched = np.lib.stride_tricks.sliding_window_view(labels > 0, window).any(axis=1)
    return views[..., None], labels[window - 1 :], touched


def load_data(hp, split):
    """Batches of ordinary windows (B, window, 1) of all series, twice: what goes in is what should come out."""
    ordinary = []
    for series in BORDERS:
        found, _, touched = windows(hp, series, split)
        ordinary.append(found[~touched][: hp["examples"]])
    dataset = tf.data.Dataset.from_tensor_slices(np.concatenate(ordinary)).map(lambda window: (window, window))
    if split == "train":
        dataset = data.shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(2)


def build_model(hp):
    """From windows (B, window, 1) to what the autoencoder makes of them, (B, window, 1)."""
    window = keras.Input((hp["window"], 1), name="window")
    hidden_state = layers.LSTM(hp["units"], name="encoder")(window)  # (B, units)
    code = layers.Dense(hp["code"], name="code")(hidden_state)  # (B, code)
    repeated = layers.RepeatVector(hp["window"])(code)  # (B, window, code)
    outputs = layers.LSTM(hp["units"], return_sequences=True, name="decoder")(repeated)  # (B, window, units)
    backwards = layers.Dense(1, name="readings")(outputs)  # The last reading first: the encoder read it last.
    model = keras.Model(window, ops.flip(backwards, axis=1), name="anomaly_detection")

    examples = sum(min(hp["examples"], borders[1] - hp["window"] + 1) for borders in BORDERS.values())
    steps = hp["epochs"] * -(-examples // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=max(1, steps // 10)
    )
    model.compile(keras.optimizers.Adam(schedule, clipnorm=hp["clip_norm"]), "mse", steps_per_execution=16)
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
        callbacks=callbacks("autoencoder", examples=len(batches) * hp["batch_size"]),
        verbose=0,
        shuffle=False,
    )
    return model


def reconstruction_errors(model, ending):
    """The score of the reading at the end of each window (N, window, 1): the window's mean squared error, (N,)."""
    return np.mean((model.predict(ending, batch_size=512, verbose=0) - ending) ** 2, axis=(1, 2))


def z_scores(hp, series, split, look_back):
    """The baseline's score of each reading of a part, (N,), and the readings' labels (N,).

    A reading's distance from the mean of the `look_back` readings before, in their standard deviations; and of these
    distances the mean over a window, like the autoencoder's, so that it is no worse off where labels are wide.
    """
    values, labels = read(series, split, before=look_back + hp["window"] - 1)
    past = np.lib.stride_tricks.sliding_window_view(values, look_back)[:-1]
    distances = np.abs(values[look_back:] - past.mean(axis=1)) / np.maximum(past.std(axis=1), 1e-6)
    scores = np.convolve(distances, np.full(hp["window"], 1 / hp["window"]), mode="valid")
    return scores, labels[-len(scores) :]


def choose_look_back(hp, series):
    """How many readings the z-score should look back, by average precision on validation."""

    def average_precision(look_back):
        scores, labels = z_scores(hp, series, "validation", look_back)
        return metrics.average_precision_score(labels > 0, scores)

    return max((48, 96, 192, 384, 768), key=average_precision)


def choose_threshold(scores, labels):
    """The threshold with the highest F1; scores (N,), labels (N,)."""
    precision, recall, thresholds = metrics.precision_recall_curve(labels > 0, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return thresholds[np.argmax(f1[:-1])]


def measure(scores, labels, threshold):
    """How well scores (N,) tell which readings are labelled (N,), over all thresholds and at the given one."""
    alarms = scores >= threshold
    begins = alarms & ~np.concatenate([[False], alarms[:-1]])
    alarm_number = np.cumsum(begins)
    justified = np.unique(alarm_number[alarms & (labels > 0)])
    return {
        "average_precision": metrics.average_precision_score(labels > 0, scores),
        "f1": metrics.f1_score(labels > 0, alarms),
        "f1_of_best_threshold": metrics.f1_score(labels > 0, scores >= choose_threshold(scores, labels)),
        "labelled_share": np.mean(labels > 0),
        "anomalies": len(np.unique(labels[labels > 0])),
        "anomalies_found": len(np.unique(labels[alarms & (labels > 0)])),
        "false_alarms": begins.sum() - len(justified),
    }


def evaluate(model, hp):
    """Figures on the test parts, means over the three series (anomalies and alarms: sums), and the baseline's."""

    def autoencoder(series, split):
        ending, labels, _ = windows(hp, series, split)
        return reconstruction_errors(model, ending), labels

    look_backs = {series: choose_look_back(hp, series) for series in BORDERS}

    def baseline(series, split):
        return z_scores(hp, series, split, look_backs[series])

    results = {}
    for prefix, score in {"": autoencoder, "zscore_": baseline}.items():
        measured = {}
        for series in BORDERS:
            threshold = choose_threshold(*score(series, "validation"))
            measured[series] = measure(*score(series, "test"), threshold)
            results[f"{prefix}average_precision_{series}"] = measured[series]["average_precision"]
        for name in measured["nyc_taxi"]:
            combine = np.sum if name in COUNTS else np.mean
            results[prefix + name] = float(combine([each[name] for each in measured.values()]))
    return results


def assets(hp):
    """What standardises each series, as `detect` wants it."""
    train_values = {series: read(series, "train")[0] for series in BORDERS}
    rows = [f"{series},{values.mean()},{values.std()}" for series, values in train_values.items()]
    return {"scale.csv": "\n".join(["series,mean,deviation", *rows])}


def detect(model, values, mean, deviation, threshold):
    """Tells for every reading whether the window that ends with it raises the alarm.

    values: (N,), a window at least; mean, deviation: the series' own in scale.csv; threshold: that in thresholds.txt.
    Returns: (N,), bool; False until a window is full.
    """
    window = model.input_shape[1]
    views = np.lib.stride_tricks.sliding_window_view((np.asarray(values) - mean) / deviation, window)
    return np.concatenate([np.zeros(window - 1, bool), reconstruction_errors(model, views[..., None]) >= threshold])


def show(model, hp):
    """The validation part of each series with its anomaly and the scores; an ordinary and the worst window, redrawn."""
    picture, axes = plots.new(13, 10, rows=6, height_ratios=[2, 1] * 3)
    redrawn, panels = plots.new(12, 8, rows=3, columns=2)
    thresholds = ["Thresholds, chosen on validation"]
    for row, series in enumerate(BORDERS):
        values, labels = read(series, "validation")
        ending, _, touched = windows(hp, series, "validation")
        scores = reconstruction_errors(model, ending)
        threshold = choose_threshold(scores, labels)
        thresholds.append(f"{series:20} {threshold:.4f}")

        readings, alarms = np.arange(len(values)), scores >= threshold
        above, below = plots.plain(axes[2 * row]), plots.plain(axes[2 * row + 1])
        above.plot(readings, values, color=plots.TRAINING, linewidth=0.8)
        above.plot(readings[alarms], values[alarms], ".", color=plots.VALIDATION, markersize=3, label="alarm")
        below.plot(readings, scores, color="black", linewidth=0.8)
        below.axhline(threshold, color=plots.VALIDATION, linewidth=0.8, label="threshold")
        for ax in (above, below):
            ax.fill_between(
                readings, 0, 1, labels > 0, transform=ax.get_xaxis_transform(), color=plots.MUTED, alpha=0.6
            )
            ax.set_xlim(0, len(values))
        above.set(ylabel=series.replace("_", " "), xticks=[])
        below.set(ylabel="score")

        ordinary = np.flatnonzero(~touched)
        typical = ordinary[np.argsort(scores[ordinary])[len(ordinary) // 2]]
        for ax, title, end in zip(panels[row], ("an ordinary window", "the worst window"), (typical, scores.argmax())):
            plots.plain(ax).plot(ending[end, :, 0], color="black", linewidth=1, label="as it was")
            answer = model.predict(ending[end : end + 1], verbose=0)
            ax.plot(answer[0, :, 0], color=plots.VALIDATION, label="redrawn")
            ax.set(title=f"{series.replace('_', ' ')}, {title}: score {scores[end]:.2f}", ylabel="standardised")
    axes[-1].set_xlabel("readings of the validation part; labelled windows are grey")
    for ax in (axes[0], axes[1], panels[0, 0]):
        ax.legend(frameon=False)
    for ax in panels[-1]:
        ax.set_xlabel("readings")
    return {"series": picture, "redrawn": redrawn, "thresholds": "\n".join(thresholds)}


if __name__ == "__main__":
    runner.run(__spec__.name)
