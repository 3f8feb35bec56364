"""A MobileNet trained on ImageNet tells the threes of mnist from the fives: first frozen, then fine-tuned.

Result    not measured yet
Baseline  always the commoner digit
Published nothing: a test fixture
Paper     Howard et al., MobileNets, 2017, https://arxiv.org/abs/1704.04861
Answers   Do the weights of a frozen base stay where they were, and the batch-norm statistics of a thawed one?

    python -m recipes.kinds.frozen_base
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "majority_accuracy", "name": "always the commoner digit"},
    "published": {"value": 0.85, "source": "a fixture of the tests: nobody published it"},
    "data": ["mnist"],
}
TINY = {"examples": 18, "epochs": 2}
VARIANTS = {"low rate": {"learning_rate": 1e-4}}
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 16, 9000, default=1000)
    hp.Int("epochs", 1, 20, default=3)  # Frozen, then as many fine-tuned.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    return hp


def build_base(weights=None):
    """From images of -1 to 1 (B, 96, 96, 3) to features (B, 256); weights: "imagenet"; None starts with random ones."""
    options = {"include_top": False, "weights": weights, "pooling": "avg", "name": "base"}
    return keras.applications.MobileNet((96, 96, 3), alpha=0.25, **options)


def build_model(hp, weights=None):
    """The frozen base with a new head: from images (B, 28, 28, 1) to the probability of a five (B, 1)."""
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    base = build_base(weights)
    base.trainable = False
    features = base(layers.Rescaling(1 / 127.5, -1.0)(layers.Resizing(96, 96)(ops.repeat(images, 3, axis=-1))))
    model = keras.Model(images, layers.Dense(1, activation="sigmoid", name="head")(features), name="frozen")
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), "binary_crossentropy", metrics=["accuracy"])
    return model


@functools.cache
def read(split, examples):
    """Images of threes and fives (N, 28, 28, 1) and labels (N, 1), 1 = five."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True)
    digits = dataset.filter(lambda image, label: (label == 3) | (label == 5)).take(examples)
    images, labels = next(digits.batch(examples).as_numpy_iterator())
    return images, (labels[:, None] == 5).astype("float32")


def load_data(hp, split):
    """Batches of images (B, 28, 28, 1) and labels (B, 1)."""
    examples = tf.data.Dataset.from_tensor_slices(read(split, hp["examples"]))
    return (shuffle(examples) if split == "train" else examples).batch(16)


def train(hp, seed, callbacks=()):
    """Trains the head and then the base from `seed`; returns the network as it was after each."""
    keras.utils.set_random_seed(seed)
    model, training, held_out = build_model(hp, "imagenet"), load_data(hp, "train"), load_data(hp, "validation")
    options = {"epochs": hp["epochs"], "callbacks": [OneCycle(), *callbacks], "shuffle": False}
    model.fit(training, validation_data=held_out, **options)
    frozen = keras.models.clone_model(model)
    frozen.set_weights(model.get_weights())

    model.get_layer("base").trainable = True
    for layer in model.get_layer("base").layers:  # The batch norms keep statistics, scale and shift.
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    tuned = keras.Model(model.inputs, model.outputs, name="tuned")
    tuned.compile(keras.optimizers.Adam(hp["learning_rate"] / 10), "binary_crossentropy", metrics=["accuracy"])
    tuned.fit(training, validation_data=held_out, **options)
    return {"model": tuned, "frozen": frozen}


def evaluate(models, hp):
    """The share of test digits that are told apart, the baseline's, and how far the base moved in either fit."""
    (_, known), (_, labels) = read("train", hp["examples"]), read("test", hp["examples"])
    base, frozen, tuned = build_base("imagenet"), models["frozen"].get_layer("base"), models["model"].get_layer("base")
    return {
        "accuracy": models["model"].evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["accuracy"],
        "majority_accuracy": float(np.mean(labels == np.round(known.mean()))),
        "frozen_moved": farthest(base, frozen),
        "tuned_moved": farthest(base, tuned),
        "tuned_statistics_moved": farthest(base, tuned, "moving_"),
    }


def farthest(before, after, kind=""):
    """The largest difference between the weights of two networks, those with `kind` in their path."""
    pairs = zip(before.weights, after.weights, strict=True)
    return max(float(np.abs(one.numpy() - other.numpy()).max()) for one, other in pairs if kind in one.path)


def show(models, hp):
    """The first validation images' probabilities of a five."""
    probabilities = models["model"].predict(read("validation", hp["examples"])[0][:8], verbose=0)[:, 0]
    return {"probabilities": ", ".join(f"{probability:.2f}" for probability in probabilities)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
