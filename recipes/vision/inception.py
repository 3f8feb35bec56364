"""Inception, whose blocks look through filters of several sizes at once, classifies Fashion-MNIST's garments.

Result    not measured yet
Baseline  not measured yet
Published 0.925
Paper     not measured yet
Answers   not measured yet

    python -m recipes.vision.inception
    python -m recipes.vision.inception --try shoe.png
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
    hp.Int("width", 2, 32, default=16)  # Of the first block's narrowest branch; 32 in the paper.
    hp.Boolean("reductions", default=True)  # 1x1 convolutions that narrow the input of the 3x3 and 5x5 ones.
    hp.Float("dropout", 0.0, 0.8, default=0.3)  # 0.4 in the paper.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 0.5, sampling="log", default=5e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the picture's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """GoogLeNet with five blocks: pictures (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""

    def convolution(inputs, filters, side, name):
        hidden = layers.Conv2D(filters, side, padding="same", use_bias=False, name=name)(inputs)
        hidden = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(hidden)
        return layers.ReLU(name=f"{name}_relu")(hidden)

    def block(inputs, width, reductions, name):
        """Four branches side by side: (B, height, width, C) to (B, height, width, 8 * width)."""
        narrow = convolution(inputs, 3 * width, 1, f"{name}_3x3_reduction") if reductions else inputs
        narrower = convolution(inputs, width // 2, 1, f"{name}_5x5_reduction") if reductions else inputs
        pooled = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(inputs)
        branches = [
            convolution(inputs, 2 * width, 1, f"{name}_1x1"),
            convolution(narrow, 4 * width, 3, f"{name}_3x3"),
            convolution(narrower, width, 5, f"{name}_5x5"),
            convolution(pooled, width, 1, f"{name}_projection"),
        ]
        return layers.Concatenate(name=name)(branches)

    pictures = keras.Input((28, 28, 1), dtype="uint8", name="pictures")
    hidden = layers.Rescaling(1 / 255)(pictures)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    hidden = convolution(hidden, 2 * hp["width"], 3, "stem")  # (B, 28, 28, 2 * width)
    hidden = layers.MaxPooling2D(3, strides=2, padding="same", name="pool_stem")(hidden)  # 14 x 14 pixels
    for place, width in enumerate((1.0, 1.0, 1.5, 1.5, 2.0), start=1):
        if place == 3:
            hidden = layers.MaxPooling2D(3, strides=2, padding="same", name="pool_blocks")(hidden)  # 7 x 7 pixels
        hidden = block(hidden, round(width * hp["width"]), hp["reductions"], f"block{place}")
    hidden = layers.GlobalAveragePooling2D(name="average")(hidden)  # (B, 16 * width)
    hidden = layers.Dropout(hp["dropout"], name="dropout")(hidden)
    logits = layers.Dense(10, name="output")(hidden)
    model = keras.Model(pictures, logits, name="inception")

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
