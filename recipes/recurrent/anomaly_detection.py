"""An LSTM autoencoder learns normal stretches of three Numenta series; what it cannot reconstruct raises an alarm.

Result    average precision 0.4084 ± 0.0041 over 3 seeds, 2.0 minutes a run (1.4 of CPU) on 1 core
Baseline  rolling z-score: the distance of a reading from the mean of those before it, in their standard deviations
Published F1 0.331, mean over the seven series of realKnownCause: a forecasting bidirectional LSTM with attention
          (Mishra et al. 2021, https://github.com/Varad2305/Time-Series-Anomaly-Detection; DeepAnT has 0.200 there).
          Only three of the seven are used here, and other parts of them, so it gives the order of magnitude only.
Paper     Malhotra et al.: LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection, 2016,
          https://arxiv.org/abs/1607.00148. As there, the decoder works backwards, and labels set the threshold;
          here it reads a narrow code at every step, never its own output, and the score is the squared error itself.
Answers   Do reconstruction errors reveal more than a z-score? How far is the F1 of a threshold chosen on one anomaly
          from that of the best one? How many anomalies are found, with how many false alarms? Does a wider code,
          which holds more, detect less?

    python -m recipes.recurrent.anomaly_detection
    python -m recipes.recurrent.anomaly_detection --set code=2

Every series is split by time: a normal beginning to train on, a part with the first labelled anomaly to choose the
threshold, and the rest to test on, with nine anomalies of other kinds (a blizzard, where the first was a marathon).
NAB's labels are wide windows in which most readings look normal: an average precision of 1 is out of reach, and
guessing scores the share of labelled readings.
"""

import functools
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from common.callbacks import OneCycle
from common.data import shuffle
from common.datasets import numenta
from common.plots import MUTED, TRAINING, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "average_precision", "better": "higher"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "rolling z-score", "metric": "zscore_average_precision"},
    "published": {"metric": "f1", "value": 0.331, "source": "F1 of a Bi-LSTM with attention, seven series"},
    "data": ["numenta"],
}
TINY = {"examples": 100, "epochs": 2, "window": 24, "units": 4, "code": 2}
VARIANTS = {"code of 2": {"code": 2}, "code of 32": {"code": 32}}
PINNED = ("window", "code")  # Errors of other windows don't compare; a wide code makes them small on anomalies too.
# Borders lie midway between two labelled windows, except those that end the normal beginnings.
SPLITS = {
    "train": "nyc_taxi[:4800]+machine_temperature[:1440]+request_latency[:1440]",
    "validation": "nyc_taxi[4800:6562]+machine_temperature[1440:3198]+request_latency[1440:2738]",
    "test": "nyc_taxi[6562:]+machine_temperature[3198:]+request_latency[2738:]",
}

SERIES = ("nyc_taxi", "machine_temperature", "request_latency")


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 5000, default=5000)  # Windows of each series, at most.
    hp.Int("epochs", 1, 100, default=20)
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Choice("window", [24, 48, 96], default=48)  # In readings: a day of taxis, four hours of the others.
    hp.Int("units", 4, 256, step=4, default=64)
    hp.Int("code", 1, 64, default=8)  # All that the decoder knows of a window: a wide one could hold any window.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=5e-3)  # The peak of the one-cycle schedule.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


def build_model(hp):
    """From windows (B, window, 1) to their reconstructions (B, window, 1)."""
    window = keras.Input((hp["window"], 1), name="window")
    hidden_state = layers.LSTM(hp["units"], name="encoder")(window)  # (B, units)
    code = layers.Dense(hp["code"], name="code")(hidden_state)  # (B, code)
    repeated = layers.RepeatVector(hp["window"])(code)  # (B, window, code)
    outputs = layers.LSTM(hp["units"], return_sequences=True, name="decoder")(repeated)  # (B, window, units)
    backwards = layers.Dense(1, name="readings")(outputs)  # The last reading first: the encoder read it last.
    model = keras.Model(window, ops.flip(backwards, axis=1), name="autoencoder")
    optimizer = keras.optimizers.Adam(hp["learning_rate"], clipnorm=hp["clip_norm"])
    model.compile(optimizer, "mse", steps_per_execution=16)
    return model


@functools.cache
def read_whole(series):
    """A whole series: readings (N,), float32, and the number of the labelled window around each (N,), 0 for none."""
    dataset = tfds.load(numenta.Builder.name, split=series)
    readings = dataset.batch(len(dataset)).get_single_element()
    return readings["value"].numpy(), readings["anomaly"].numpy()


def read(series, split, before=0):
    """A part of a series, in the form of `read_whole`, preceded by `before` readings, or as many as there are."""
    begin, end = (int(border or 0) for border in re.search(rf"{series}\[(\d*):(\d*)\]", SPLITS[split]).groups())
    return [each[max(0, begin - before) : end or None] for each in read_whole(series)]


def windows(hp, series, split):
    """The window that ends at each reading of a part (N, window, 1), standardised, and whether it has a label (N,).

    A window must be whole, so the first readings of a series have none.
    """
    train_values, _ = read(series, "train")
    values, labels = read(series, split, before=hp["window"] - 1)
    values = (values - train_values.mean()) / train_values.std()
    views = np.lib.stride_tricks.sliding_window_view(values, hp["window"])
    return views[..., None], np.lib.stride_tricks.sliding_window_view(labels > 0, hp["window"]).any(axis=1)


def load_data(hp, split):
    """Batches of normal windows (B, window, 1) of all series, twice: the input is also the target."""
    found = [windows(hp, series, split) for series in SERIES]
    ordinary = np.concatenate([views[~touched][: hp["examples"]] for views, touched in found])
    dataset = tf.data.Dataset.from_tensor_slices(ordinary).map(lambda window: (window, window))
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """Test-set figures of the model and the baseline, means over the three series (sums for anomalies and alarms)."""
    results = {}
    look_backs = {series: choose_look_back(hp, series) for series in SERIES}
    for prefix, score in {
        "": lambda series, split: redraw(model, windows(hp, series, split)[0])[1],
        "zscore_": lambda series, split: z_scores(hp, series, split, look_backs[series]),
    }.items():
        measured = []
        for series in SERIES:
            threshold = choose_threshold(score(series, "validation"), read(series, "validation")[1])
            measured.append(measure(score(series, "test"), read(series, "test")[1], threshold))
            results[f"{prefix}average_precision_{series}"] = measured[-1]["average_precision"]
        for name in measured[0]:
            combine = np.sum if name in ("anomalies", "anomalies_found", "false_alarms") else np.mean
            results[prefix + name] = float(combine([each[name] for each in measured]))
    return results


def redraw(model, ending):
    """Reconstructs windows (N, window, 1); also returns their errors (N,), the scores of their last readings."""
    batches = np.split(ending, range(512, len(ending), 512))  # `predict` would trace 16 steps at once, as `fit` does.
    redrawn = np.concatenate([model.predict_on_batch(batch) for batch in batches])
    return redrawn, np.mean((redrawn - ending) ** 2, axis=(1, 2))


def z_scores(hp, series, split, look_back):
    """The baseline's score for each reading of a part, (N,).

    The distance of a reading from the mean of the `look_back` readings before it, in their standard deviations,
    averaged over a window as the autoencoder's errors are, so that wide labels put the baseline at no disadvantage.
    """
    values, _ = read(series, split, before=look_back + hp["window"] - 1)
    past = np.lib.stride_tricks.sliding_window_view(values, look_back)[:-1]
    distances = np.abs(values[look_back:] - past.mean(axis=1)) / np.maximum(past.std(axis=1), 1e-6)
    return np.convolve(distances, np.full(hp["window"], 1 / hp["window"]), mode="valid")


def choose_look_back(hp, series):
    """Chooses how many readings the z-score looks back, by average precision on validation."""
    labelled = read(series, "validation")[1] > 0
    scores = {look_back: z_scores(hp, series, "validation", look_back) for look_back in (48, 96, 192, 384, 768)}
    return max(scores, key=lambda look_back: average_precision_score(labelled, scores[look_back]))


def choose_threshold(scores, labels):
    """The threshold with the highest F1; scores (N,), labels (N,)."""
    precision, recall, thresholds = precision_recall_curve(labels > 0, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return thresholds[np.argmax(f1[:-1])]


def measure(scores, labels, threshold):
    """Measures how well scores (N,) pick out the labelled readings (N,), over all thresholds and at the given one."""
    alarms = scores >= threshold
    begins = alarms & ~np.concatenate([[False], alarms[:-1]])
    justified = np.unique(np.cumsum(begins)[alarms & (labels > 0)])
    return {
        "average_precision": average_precision_score(labels > 0, scores),
        "f1": f1_score(labels > 0, alarms),
        "f1_of_best_threshold": f1_score(labels > 0, scores >= choose_threshold(scores, labels)),
        "labelled_share": np.mean(labels > 0),
        "anomalies": len(np.unique(labels[labels > 0])),
        "anomalies_found": len(np.unique(labels[alarms & (labels > 0)])),
        "false_alarms": begins.sum() - len(justified),
    }


def detect(model, values, mean, deviation, threshold):
    """Tells for every reading whether the window that ends with it raises an alarm.

    values: (N,), at least one window; mean, deviation: the series' own, from scale.csv; threshold: from thresholds.txt.
    Returns: (N,), bool; False until a window is full.
    """
    window = model.input_shape[1]
    views = np.lib.stride_tricks.sliding_window_view((np.asarray(values) - mean) / deviation, window)
    return np.concatenate([np.zeros(window - 1, bool), redraw(model, views[..., None])[1] >= threshold])


def assets(hp):
    """The mean and deviation that standardise each series, for `detect`."""
    rows = [f"{series},{read(series, 'train')[0].mean()},{read(series, 'train')[0].std()}" for series in SERIES]
    return {"scale.csv": "\n".join(["series,mean,deviation", *rows])}


def show(model, hp):
    """The validation part of each series with its anomaly and the alarms, and the worst window, reconstructed."""
    picture, axes = new(13, 8, rows=3, columns=2, width_ratios=[3, 1])
    thresholds = ["Thresholds, chosen on validation"]
    for series, (left, right) in zip(SERIES, axes):
        values, labels = read(series, "validation")
        ending, _ = windows(hp, series, "validation")
        redrawn, scores = redraw(model, ending)
        threshold = choose_threshold(scores, labels)
        thresholds.append(f"{series:20} {threshold:.4f}")
        time, alarms, worst = np.arange(len(values)), scores >= threshold, scores.argmax()
        plain(left).plot(time, values, color=TRAINING, linewidth=0.8)
        left.plot(time[alarms], values[alarms], ".", color=VALIDATION, markersize=3)
        left.fill_between(time, 0, 1, labels > 0, transform=left.get_xaxis_transform(), color=MUTED, alpha=0.6)
        left.set(title="validation: labels grey, alarms red", xlabel="readings", ylabel=series.replace("_", " "))
        plain(right).plot(ending[worst, :, 0], color="black", linewidth=1)
        right.plot(redrawn[worst, :, 0], color=VALIDATION)
        right.set(title="worst window: red = reconstruction", xlabel="readings", ylabel="standardised")
    return {"series": picture, "thresholds": "\n".join(thresholds)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
