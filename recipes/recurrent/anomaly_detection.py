"""An LSTM autoencoder learns the normal parts of three time series; what it fails to reconstruct raises an alarm.

Result    average precision 0.4205 ± 0.0181 over 3 seeds, 0.9 minutes a run (1.3 CPU minutes) on 2 cores
Baseline  z-score: how many standard deviations a reading lies from the mean of the training part, or its square;
          averaged, as the errors are, over the span that is best on validation. The network does not clearly beat it.
Published F1 0.331, a bidirectional LSTM with attention (https://github.com/Varad2305/Time-Series-Anomaly-Detection);
          a mean over seven series, of which three are used here, split differently: only roughly comparable
Paper     Malhotra et al.: LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection, 2016,
          https://arxiv.org/abs/1607.00148. Here the decoder reads a narrow code at every step, never its own output.
Answers   Do reconstruction errors have a higher average precision than z-scores? Not clearly: 0.420 against 0.416.
          How good is a threshold chosen on a single anomaly? Its F1 is 0.38, the z-score's 0.33, and the best
          threshold's would be 0.46. A constant alarm has 0.27.
          How many anomalies are found? 8.3 of 9, with 18 false alarms; by the z-score 6, with 17.
          Is a wider code worse? With 32 numbers instead of 8, 0.415 instead of 0.420, there is no difference beyond the
          spread of the seeds. With 2, the first seed has 0.479.

    python -m recipes.recurrent.anomaly_detection
    python -m recipes.recurrent.anomaly_detection --try nyc_taxi.csv

The Numenta series are split by time: normal readings for training, one labelled anomaly for choosing the threshold, the
rest for testing. Most readings in the wide labelled windows look normal, so average precision cannot come close to 1.
"""

import functools
import json
import os
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from common.callbacks import OneCycle
from common.data import shuffle
from common.datasets import numenta
from common.plots import MUTED, TRAINING, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "average_precision", "better": "higher"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "z-score", "metric": "zscore_average_precision"},
    "published": {"metric": "f1", "value": 0.331, "source": "F1 of a Bi-LSTM with attention, seven series"},
    "data": ["numenta"],
}
TINY = {"examples": 100, "epochs": 2, "window": 24, "units": 4, "code": 2}
VARIANTS = {"code of 2": {"code": 2}, "code of 32": {"code": 32}}
PINNED = ("window", "code")  # They change the scale of the errors; a wide code makes them small on anomalies too.
# Splits meet midway between two labelled windows, except where the normal training part ends.
SPLITS = {
    "train": "nyc_taxi[:4800]+machine_temperature[:1440]+request_latency[:1440]",
    "validation": "nyc_taxi[4800:6562]+machine_temperature[1440:3198]+request_latency[1440:2738]",
    "test": "nyc_taxi[6562:]+machine_temperature[3198:]+request_latency[2738:]",
}

SERIES = ("nyc_taxi", "machine_temperature", "request_latency")
SPANS = (1, 12, 24, 48, 96, 192, 384)  # Scores are averaged over so many readings; validation chooses.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 5000, default=5000)  # Windows from each series, at most.
    hp.Int("epochs", 1, 100, default=20)
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)
    hp.Choice("window", [24, 48, 96], default=48)  # Readings: a day of taxi rides, four hours of the other series.
    hp.Int("units", 4, 256, step=4, default=64)
    hp.Int("code", 1, 64, default=8)  # All that the decoder knows about a window; a wide code could copy any window.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=5e-3)  # The peak of the one-cycle schedule.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


def build_model(hp):
    """Maps windows (B, window, 1) to their reconstructions (B, window, 1)."""
    window = keras.Input((hp["window"], 1), name="window")
    hidden_state = layers.LSTM(hp["units"], name="encoder")(window)  # (B, units)
    code = layers.Dense(hp["code"], name="code")(hidden_state)  # (B, code)
    repeated = layers.RepeatVector(hp["window"])(code)  # (B, window, code)
    outputs = layers.LSTM(hp["units"], return_sequences=True, name="decoder")(repeated)  # (B, window, units)
    backwards = layers.Dense(1, name="readings")(outputs)  # In reverse: the encoder read the last one most recently.
    model = keras.Model(window, ops.flip(backwards, axis=1), name="autoencoder")
    optimizer = keras.optimizers.Adam(hp["learning_rate"], clipnorm=hp["clip_norm"])
    model.compile(optimizer, "mse", steps_per_execution=16)
    return model


@functools.cache
def read_whole(series):
    """A whole series: readings (N,), float32, and the number of each one's labelled window (N,), 0 for none."""
    dataset = tfds.load(numenta.Builder.name, split=series)
    readings = dataset.batch(len(dataset)).get_single_element()
    return readings["value"].numpy(), readings["anomaly"].numpy()


def read(series, split, before=0):
    """One split of a series, as from `read_whole`, preceded by `before` readings, or as many as there are."""
    begin, end = (int(border or 0) for border in re.search(rf"{series}\[(\d*):(\d*)\]", SPLITS[split]).groups())
    return [each[max(0, begin - before) : end or None] for each in read_whole(series)]


def windows(hp, series, split):
    """The full windows that end in a split (N, window, 1), standardized, and whether each holds a label (N,)."""
    train_values, _ = read(series, "train")
    values, labels = read(series, split, before=hp["window"] - 1)
    views = sliding_window_view((values - train_values.mean()) / train_values.std(), hp["window"])
    return views[..., None], sliding_window_view(labels > 0, hp["window"]).any(axis=1)


def load_data(hp, split):
    """Batches of normal windows (B, window, 1) of all series, twice: the input is also the target."""
    found = [windows(hp, series, split) for series in SERIES]
    ordinary = np.concatenate([views[~touched][: hp["examples"]] for views, touched in found])
    dataset = tf.data.Dataset.from_tensor_slices(ordinary).map(lambda window: (window, window))
    batches = (shuffle(dataset) if split == "train" else dataset).batch(hp["batch_size"])
    return batches.prefetch(tf.data.AUTOTUNE)


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
    """Test figures of the model and the baseline: means over the three series, sums for anomalies and alarms."""
    candidates = {
        "": [lambda *part: reconstruct(model, windows(hp, *part)[0])[1]],
        "zscore_": [z_scores, lambda *part: z_scores(*part) ** 2],
    }
    results = {}
    for prefix, scorers in candidates.items():
        measured = []
        for series in SERIES:
            _, labels = read(series, "validation")
            rules = [(*choose_rule(scorer(series, "validation"), labels), scorer) for scorer in scorers]
            _, span, threshold, scorer = max(rules, key=lambda rule: rule[0])
            scores = average(scorer(series, "test"), span)
            measured.append(measure(scores, read(series, "test")[1], threshold))
            results[f"{prefix}average_precision_{series}"] = measured[-1]["average_precision"]
        for name in measured[0]:
            combine = np.sum if name in ("anomalies", "anomalies_found", "false_alarms") else np.mean
            results[prefix + name] = float(combine([each[name] for each in measured]))
    return results


def reconstruct(model, views):
    """Reconstructs windows (N, window, 1); also returns their errors (N,), which score the windows' last readings."""
    batches = np.split(views, range(512, len(views), 512))  # `predict` would trace 16 steps at once, as `fit` does.
    reconstructed = np.concatenate([model.predict_on_batch(batch) for batch in batches])
    return reconstructed, np.mean((reconstructed - views) ** 2, axis=(1, 2))


def z_scores(series, split):
    """The baseline: how many standard deviations each reading of a split (N,) lies from the training part's mean."""
    normal, values = read(series, "train")[0], read(series, split)[0]
    return np.abs(values - normal.mean()) / normal.std()


def average(scores, span):
    """The mean of each score (N,) and the `span` - 1 before it; the first one counts for those before the beginning."""
    return np.convolve(np.pad(scores, (span - 1, 0), mode="edge"), np.full(span, 1 / span), mode="valid")


def choose_rule(scores, labels):
    """The best average precision of scores (N,) averaged over one of SPANS, that span, and its best threshold."""
    precisions = {span: average_precision_score(labels > 0, average(scores, span)) for span in SPANS}
    span = max(precisions, key=precisions.get)
    return precisions[span], span, choose_threshold(average(scores, span), labels)


def choose_threshold(scores, labels):
    """The threshold with the highest F1; scores (N,), labels (N,)."""
    precision, recall, thresholds = precision_recall_curve(labels > 0, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return thresholds[np.argmax(f1[:-1])]


def measure(scores, labels, threshold):
    """Measures how well scores (N,) detect the labelled readings (N,), over all thresholds and at the given one."""
    alarms = scores >= threshold
    begins = alarms & ~np.concatenate([[False], alarms[:-1]])
    justified = np.unique(np.cumsum(begins)[alarms & (labels > 0)])
    return {
        "average_precision": average_precision_score(labels > 0, scores),
        "f1": f1_score(labels > 0, alarms),
        "f1_of_best_threshold": f1_score(labels > 0, scores >= choose_threshold(scores, labels)),
        "f1_of_constant_alarm": f1_score(labels > 0, np.ones(len(labels))),
        "anomalies": len(np.unique(labels[labels > 0])),
        "anomalies_found": len(np.unique(labels[alarms & (labels > 0)])),
        "false_alarms": begins.sum() - len(justified),
    }


def predict(model, assets, inputs):
    """Lists the readings, counted from 1, whose windows raise an alarm.

    inputs: paths of CSV files with one of SERIES in the name, which determines the scale and the threshold. Readings
        are in the last column; a header and timestamps are ignored.
    Raises ValueError for any other name, NaN or text in place of a reading, or fewer readings than a window has.

        model = keras.models.load_model("model.keras")
        assets = {"series.json": open("series.json").read()}
        predict(model, assets, ["nyc_taxi.csv"])
    """
    window, known, answers = model.input_shape[1], json.loads(assets["series.json"]), []
    for path in inputs:
        readings = np.genfromtxt(path, delimiter=",", usecols=-1, encoding="utf-8", ndmin=1)
        readings = readings[np.isnan(readings[:1]).sum() :]  # Without the header.
        names = [name for name in known if name in os.path.basename(path)]
        if not names or len(readings) < window or not np.isfinite(readings).all():
            raise ValueError(f"{path}: expected {window} or more numbers, and one of {', '.join(known)} in the name")
        mean, deviation, validation, labels = known[names[0]]
        series = [(np.array(each, "float32") - mean) / deviation for each in (validation, readings)]
        known_scores, scores = (reconstruct(model, sliding_window_view(each, window)[..., None])[1] for each in series)
        _, span, threshold = choose_rule(known_scores, np.array(labels))  # As in `evaluate`.
        flagged = np.flatnonzero(average(scores, span) >= threshold)
        stretches = np.split(flagged, np.flatnonzero(np.diff(flagged) >= window) + 1)  # Of overlapping windows.
        found = [f"{each[0] + 1} to {each[-1] + window}" for each in stretches if each.size]
        answers.append(f"{path}: {len(flagged)} windows flagged, readings {', '.join(found) or 'none'}")
    return answers


def assets(hp):
    """The scale and the validation split of each series, which determine its threshold."""
    known = {}
    for series in SERIES:
        normal, values = read(series, "train")[0], read(series, "validation", before=hp["window"] - 1)[0]
        labels = read(series, "validation")[1]
        known[series] = [float(normal.mean()), float(normal.std()), values.tolist(), labels.tolist()]
    return {"series.json": json.dumps(known)}


def show(model, hp):
    """The validation split of each series with its anomaly and alarms, and the worst reconstructed window."""
    picture, axes = new(13, 8, rows=3, columns=2, width_ratios=[3, 1])
    for series, (left, right) in zip(SERIES, axes):
        values, labels = read(series, "validation")
        ending, _ = windows(hp, series, "validation")
        reconstructed, scores = reconstruct(model, ending)
        _, span, threshold = choose_rule(scores, labels)
        alarms = average(scores, span) >= threshold
        time, worst = np.arange(len(values)), scores.argmax()
        plain(left).plot(time, values, color=TRAINING, linewidth=0.8)
        left.plot(time[alarms], values[alarms], ".", color=VALIDATION, markersize=3)
        left.fill_between(time, 0, 1, labels > 0, transform=left.get_xaxis_transform(), color=MUTED, alpha=0.6)
        left.set(title="validation: labels grey, alarms red", xlabel="readings", ylabel=series.replace("_", " "))
        plain(right).plot(ending[worst, :, 0], color="black", linewidth=1)
        right.plot(reconstructed[worst, :, 0], color=VALIDATION)
        right.set(title="worst window: red = reconstruction", xlabel="readings", ylabel="standardized")
    return {"series": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
