"""VGG, a deep stack of 3x3 convolutions, classifies Fashion-MNIST's pictures of garments.

Result    not measured yet
Baseline  not measured yet
Published 0.925
Paper     not measured yet
Answers   not measured yet

    python -m recipes.vision.vgg
    python -m recipes.vision.vgg --try shoe.png
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
    hp.Int("width", 4, 64, step=4, default=24)  # Filters of the first stage, 64 in the paper; every stage doubles them.
    hp.Choice("stack", ["two 3x3", "one 5x5"], default="two 3x3")  # The convolutions of a stage.
    hp.Int("units", 32, 4_096, default=256)  # Of both hidden dense layers; 4,096 in the paper.
    hp.Float("dropout", 0.0, 0.8, default=0.5)  # As in the paper.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 0.5, sampling="log", default=5e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the picture's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """VGG, four stages of convolutions: pictures (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    pictures = keras.Input((28, 28, 1), dtype="uint8", name="pictures")
    hidden = layers.Rescaling(1 / 255)(pictures)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    for stage in range(1, 5):
        filters = hp["width"] * 2 ** (stage - 1)
        for place, side in enumerate({"two 3x3": (3, 3), "one 5x5": (5,)}[hp["stack"]], start=1):
            name = f"{stage}_{place}"
            hidden = layers.Conv2D(filters, side, padding="same", use_bias=False, name=f"conv{name}")(hidden)
            hidden = layers.BatchNormalization(momentum=0.9, name=f"norm{name}")(hidden)
            hidden = layers.ReLU(name=f"relu{name}")(hidden)  # (B, 28, 28, width), then 14, 7 and 3 pixels
        hidden = layers.MaxPooling2D(2, name=f"pool{stage}")(hidden)
    hidden = layers.Flatten(name="flat")(hidden)  # (B, 8 * width)
    for place in (1, 2):
        hidden = layers.Dense(hp["units"], activation="relu", name=f"dense{place}")(hidden)
        hidden = layers.Dropout(hp["dropout"], name=f"dropout{place}")(hidden)
    logits = layers.Dense(10, name="output")(hidden)
    model = keras.Model(pictures, logits, name="vgg")

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
