"""Six optimizers, three batch sizes and three schedules train one network on Fashion-MNIST, each at its best rate.

Result    accuracy 0.9009 ± 0.0023 over 3 seeds, 5.9 minutes a run (7.6 CPU minutes) on 2 cores
Baseline  ridge regression on random Fourier features, an approximation of a kernel method
Published 0.900, an MLP with the same hidden layers, table in https://github.com/zalandoresearch/fashion-mnist
Paper     Choi et al.: On Empirical Comparisons of Optimizers for Deep Learning, 2019, https://arxiv.org/abs/1910.05446:
          comparisons mean little unless every optimizer is tuned with the same effort. AdamW: Loshchilov, Hutter, 2017,
          https://arxiv.org/abs/1711.05101. Range test: Smith, 2015, https://arxiv.org/abs/1506.01186.
Answers   What differs between optimizers when the learning rate of each is tuned with the same effort? Updates to a
          validation accuracy of 88 in 100, measured every 300 (3,000 if it is not reached): SGD 2,600, momentum 2,000,
          Nesterov 2,000, RMSprop 2,400, Adam 1,900, AdamW 1,700. In the end, 88.9% with SGD and 88.9% with AdamW.
          How is a learning rate found? By training with values a factor of three apart: for AdamW, the best was 0.0008,
          averaged over the seeds. A range test, 200 updates with a growing rate, suggests 0.0001.
          Full batch, mini-batches or single examples? SGD reaches 88.9% on validation with 3,000 batches of 64, 80.4%
          with 7,500 single examples and 73.9% with 20 updates, each from all 55,000.
          What do a schedule and a warm-up add? After 3,000 updates, AdamW reaches 88.9% on validation with a constant
          learning rate, 89.9% with one that falls along a cosine, and 89.9% with a warm-up too.

    python -m recipes.basics.optimizers
    python -m recipes.basics.optimizers --set compared=0 optimizer=momentum learning_rate=0.1
    python -m recipes.basics.optimizers --try shoe.png
"""

import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import kernel_approximation, linear_model, pipeline

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_object
from common.plots import MUTED, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "random Fourier features", "metric": "ridge_accuracy"},
    "published": {"value": 0.900, "source": "MLP 256-128-64, table of Fashion-MNIST"},
    "data": ["fashion_mnist"],
}
TINY = {"examples": 90, "epochs": 2, "updates": 30, "compared": 1}
PINNED = ("updates", "compared")
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}

NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
GOAL = 0.88  # Updates and seconds are counted until validation accuracy reaches it.
POINTS = 10  # How often validation accuracy is measured.
# What is compared, each at three learning rates; in a coarser search, the middle one was best.
COMPARED = {
    "SGD": ({"optimizer": "SGD"}, (0.03, 0.1, 0.3)),
    "momentum": ({"optimizer": "momentum"}, (0.003, 0.01, 0.03)),
    "Nesterov": ({"optimizer": "Nesterov"}, (0.003, 0.01, 0.03)),
    "RMSprop": ({"optimizer": "RMSprop"}, (1e-4, 3e-4, 1e-3)),
    "Adam": ({"optimizer": "Adam"}, (1e-4, 3e-4, 1e-3)),
    "AdamW": ({"optimizer": "AdamW"}, (1e-4, 3e-4, 1e-3)),
    "cosine": ({"optimizer": "AdamW", "schedule": "cosine"}, (1e-3, 3e-3, 1e-2)),
    "warm-up": ({"optimizer": "AdamW", "schedule": "one-cycle"}, (1e-3, 3e-3, 1e-2)),
    "single": ({"optimizer": "SGD", "batch_size": 1, "updates": 7_500}, (0.001, 0.003, 0.01)),
    "full": ({"optimizer": "SGD", "batch_size": 55_000, "updates": 20}, (0.03, 0.1, 0.3)),
}
COMMON = {"batch_size": 64, "schedule": "constant", "dropout": 0.0, "mirror": False}  # To all that are compared.
COLOURS = ("#94a3b8", "#1d4ed8", "#60a5fa", "#0f766e", "#c2410c", "#111827")  # Of the six optimizers.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 100, default=60)  # Of the recipe's own network.
    hp.Choice("batch_size", [16, 32, 64, 128, 256], default=128)
    hp.Choice("optimizer", ["SGD", "momentum", "Nesterov", "RMSprop", "Adam", "AdamW"], default="AdamW")
    hp.Choice("schedule", ["constant", "cosine", "one-cycle"], default="one-cycle")
    hp.Float("learning_rate", 1e-5, 3.0, sampling="log", default=3e-3)  # With a schedule, its peak.
    hp.Float("weight_decay", 0.0, 0.5, default=0.05)  # For AdamW only.
    hp.Float("dropout", 0.0, 0.7, default=0.1)
    hp.Boolean("mirror", default=True)  # Random horizontal flips, in training only.
    hp.Int("updates", 30, 100_000, default=3_000)  # Of each network that is compared.
    hp.Int("compared", 0, len(COMPARED), default=len(COMPARED))  # 0 trains only the recipe's own network.
    return hp


def build_model(hp, name="optimizers"):
    """An MLP with the hidden layers of the published one: images (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 90, offset=-0.81)(images)  # Mean 0 and variance 1 over all pixels.
    if hp["mirror"]:
        hidden = layers.RandomFlip("horizontal")(hidden)
    hidden = layers.Flatten()(hidden)
    for number, units in enumerate((256, 128, 64), start=1):
        hidden = layers.Dense(units, activation="relu", name=f"hidden_{number}")(hidden)
        hidden = layers.Dropout(hp["dropout"])(hidden)
    model = keras.Model(images, layers.Dense(10, name="logits")(hidden), name=name)

    rate = hp["learning_rate"]
    optimizers = {
        "SGD": keras.optimizers.SGD(rate),
        "momentum": keras.optimizers.SGD(rate, momentum=0.9),
        "Nesterov": keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        "RMSprop": keras.optimizers.RMSprop(rate),
        "Adam": keras.optimizers.Adam(rate),
        "AdamW": keras.optimizers.AdamW(rate, weight_decay=hp["weight_decay"]),
    }
    model.compile(
        optimizer=optimizers[hp["optimizer"]],
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def load_data(hp, split):
    """Batches of images (B, 28, 28, 1), uint8, and labels (B,), which are indices of NAMES."""
    dataset = tfds.load("fashion_mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"]).cache()
    if split != "train":
        return dataset.batch(1_000)
    return shuffle(dataset).batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def networks(hp):
    """The hyperparameters of the networks that are compared, by name, such as "Adam-0.001"."""
    chosen = {}
    for name, (changes, rates) in list(COMPARED.items())[: hp["compared"]]:
        for rate in rates:
            chosen[f"{name}-{rate}"] = {**hp.values, **COMMON, **changes, "learning_rate": rate}
    return chosen


def train(hp, seed, callbacks=()):
    """Trains the networks that are compared and the recipe's own, "model", each from `seed`; returns them by name."""
    models = {}

    def note(epoch, logs):
        logs.update(updates=int(model.optimizer.iterations), cpu_seconds=time.process_time())

    def schedule(hp):
        return {"constant": [], "cosine": [OneCycle(warmup=0.0)], "one-cycle": [OneCycle(warmup=0.1)]}[hp["schedule"]]

    for name, values in {**networks(hp), "optimizers": hp.values}.items():
        keras.utils.set_random_seed(seed)
        model = models[name] = build_model(values, name)
        data, epochs = load_data(values, "train"), hp["epochs"]
        if name in networks(hp):  # Whatever the batch size, an epoch is a tenth of the updates.
            data, epochs = data.repeat().take(values["updates"] // POINTS), POINTS
        model.fit(
            data,
            validation_data=load_data(values, "validation"),
            epochs=epochs,
            callbacks=[*schedule(values), keras.callbacks.LambdaCallback(on_epoch_end=note), *callbacks],
            shuffle=False,  # `load_data` did.
        )
    return {"model": models.pop("optimizers"), **models}


def best_runs(models, hp):
    """The best learning rate for each of COMPARED, and what `fit` measured with it: {name: (rate, history)}."""
    best = {}
    for name in list(COMPARED)[: hp["compared"]]:
        histories = {rate: models[f"{name}-{rate}"].history.history for rate in COMPARED[name][1]}
        rate = max(histories, key=lambda rate: histories[rate]["val_accuracy"][-1])
        best[name] = rate, histories[rate]
    return best


def points_to_goal(history):
    """How many of the POINTS it takes to reach GOAL; all of them if it is not reached."""
    reached = np.flatnonzero(np.array(history["val_accuracy"]) >= GOAL)
    return reached[0] + 1 if reached.size else POINTS


def range_test(hp):
    """The learning-rate range test for AdamW: rates that grow with every update (N,), and the losses (N,), smoothed."""
    keras.utils.set_random_seed(0)
    values = {**hp.values, **COMMON, "optimizer": "AdamW"}
    model = build_model(values)
    model.compile(model.optimizer, model.loss)  # Again, for one step at a time.
    rates, losses = np.geomspace(1e-5, 1.0, min(200, hp["updates"])), []
    for rate, (images, labels) in zip(rates, load_data(values, "train").repeat()):
        model.optimizer.learning_rate = rate
        model.reset_metrics()
        losses.append(model.train_on_batch(images, labels, return_dict=True)["loss"])
    return rates[10:-10], np.convolve(losses, np.ones(21) / 21, mode="valid")


def evaluate(models, hp):
    """Accuracies on test of the recipe's own network and the baseline, and what the comparison measured."""
    (known, known_labels), (images, labels) = read(hp, "train"), read(hp, "test")
    features = kernel_approximation.RBFSampler(gamma=0.01, n_components=2_000, random_state=0)
    ridge = pipeline.make_pipeline(features, linear_model.RidgeClassifier())
    ridge.fit(known.reshape(len(known), -1) / 255, known_labels)
    rates, losses = range_test(hp)
    results = {
        "accuracy": float(np.mean(models["model"].predict(images, verbose=0).argmax(axis=1) == labels)),
        "ridge_accuracy": ridge.score(images.reshape(len(images), -1) / 255, labels),
        "range-test-rate": rates[losses.argmin()] / 10,  # A rule of thumb: a tenth of the rate with the lowest loss.
    }
    for name, (rate, history) in best_runs(models, hp).items():
        results[f"{name}-rate"] = rate
        results[f"{name}-accuracy"] = history["val_accuracy"][-1]
        results[f"{name}-updates"] = history["updates"][points_to_goal(history) - 1]
    return results


def read(hp, split):
    """A whole split as arrays: images (N, 28, 28, 1), uint8, and labels (N,)."""
    images, labels = zip(*load_data(hp, split).as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels)


def predict(model, assets, inputs):
    """Names clothes: each input is the path of an image file, each answer a name and its probability, "bag (0.998)".

    An image shows one garment on a plain background; there are no assets. Raises ValueError for a file that is not an
    image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["shoe.png"])
    """
    logits = model.predict(np.stack([load_object(path, length=28) for path in inputs]), verbose=0)
    return [f"{NAMES[row.argmax()]} ({row.max():.3f})" for row in ops.convert_to_numpy(ops.softmax(logits))]


def show(models, hp):
    """How fast each network of the comparison learns at its best learning rate, and the range test."""
    runs = best_runs(models, hp)
    picture, (left, middle, right) = new(9, 4, columns=3, width_ratios=[4, 4, 3])
    for (name, (_, history)), colour in zip(runs.items(), COLOURS):
        left.plot(history["updates"], [100 * each for each in history["val_accuracy"]], ".-", color=colour, label=name)
    left.axhline(100 * GOAL, color=MUTED, zorder=0)
    plain(left).set(title="Each optimizer at its best rate", xlabel="updates", ylabel="accuracy on validation (%)")
    if runs:
        left.legend(frameon=False)

    for place, (_, history) in enumerate(runs.values()):
        points, accuracies = points_to_goal(history), history["val_accuracy"]
        reached = max(accuracies) >= GOAL
        text = f"{history['updates'][points - 1]:,.0f} updates" if reached else f"only {accuracies[-1]:.0%}"
        seconds = points * np.median(np.diff(history["cpu_seconds"]))
        bar = middle.barh(place, seconds, color=VALIDATION if reached else MUTED)
        middle.bar_label(bar, [text], padding=3, fontsize=8)
    middle.set_yticks(range(len(runs)), list(runs))
    middle.invert_yaxis()
    middle.margins(x=0.6)
    plain(middle).set(title=f"Time to {GOAL:.0%} on validation", xlabel="CPU seconds")

    rates, losses = range_test(hp)
    right.semilogx(rates, losses, color=VALIDATION)
    plain(right).set(title="Range test of AdamW", xlabel="learning rate", ylabel="loss")
    right.set(ylim=(0, 3), xticks=[1e-4, 1e-2, 1])
    return {"comparison": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
