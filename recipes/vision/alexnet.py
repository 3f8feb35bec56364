"""AlexNet, the network that made convolutions popular in 2012, at the size of Fashion-MNIST's pictures of garments.

Result    not measured yet
Baseline  not measured yet
Published 0.925
Paper     not measured yet
Answers   not measured yet

    python -m recipes.vision.alexnet
    python -m recipes.vision.alexnet --try shoe.png
"""

import keras
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle

SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Pictures read from each split, at most.
    hp.Int("epochs", 1, 60, default=12)
    hp.Choice("batch_size", [64, 128, 256], default=128)
    hp.Int("width", 2, 32, default=10)  # In the paper, 32: the layers have 3, 8, 12, 12 and 8 times as many filters.
    hp.Choice("first_filters", [3, 5, 7, 9], default=7)  # The side of the first filters.
    hp.Int("units", 32, 4_096, default=512)  # Of both hidden dense layers; 4,096 in the paper.
    hp.Choice("pooling", ["overlapping", "plain"], default="overlapping")
    hp.Float("dropout", 0.0, 0.8, default=0.5)  # As in the paper.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 0.5, sampling="log", default=5e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the picture's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """AlexNet, for small pictures: pictures (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    width = hp["width"]
    window = {"overlapping": 3, "plain": 2}[hp["pooling"]]

    pictures = keras.Input((28, 28, 1), dtype="uint8", name="pictures")
    hidden = layers.Rescaling(1 / 255)(pictures)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    hidden = layers.Conv2D(3 * width, hp["first_filters"], padding="same", use_bias=False, name="conv1")(hidden)
    hidden = layers.BatchNormalization(momentum=0.9, name="norm1")(hidden)
    hidden = layers.ReLU(name="relu1")(hidden)  # (B, 28, 28, 3 * width)
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool1")(hidden)
    hidden = layers.Conv2D(8 * width, 5, padding="same", use_bias=False, name="conv2")(hidden)
    hidden = layers.BatchNormalization(momentum=0.9, name="norm2")(hidden)
    hidden = layers.ReLU(name="relu2")(hidden)  # (B, 14, 14, 8 * width)
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool2")(hidden)
    hidden = layers.Conv2D(12 * width, 3, padding="same", activation="relu", name="conv3")(hidden)
    hidden = layers.Conv2D(12 * width, 3, padding="same", activation="relu", name="conv4")(hidden)
    hidden = layers.Conv2D(8 * width, 3, padding="same", activation="relu", name="conv5")(
        hidden
    )  # (B, 7, 7, 8 * width)
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool5")(hidden)  # (B, 4, 4, 8 * width)
    hidden = layers.Flatten(name="flat")(hidden)
    hidden = layers.Dropout(hp["dropout"], name="dropout6")(hidden)
    hidden = layers.Dense(hp["units"], activation="relu", name="dense6")(hidden)
    hidden = layers.Dropout(hp["dropout"], name="dropout7")(hidden)
    hidden = layers.Dense(hp["units"], activation="relu", name="dense7")(hidden)
    logits = layers.Dense(10, name="output")(hidden)
    model = keras.Model(pictures, logits, name="alexnet")

    model.compile(
        optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def load_data(hp, split):
    """Batches of pictures (B, 28, 28, 1), uint8, 0 = background, and one-hot labels (B, 10)."""
    dataset = tfds.load("fashion_mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    dataset = dataset.map(lambda picture, label: (picture, tf.one_hot(label, 10))).cache()
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
