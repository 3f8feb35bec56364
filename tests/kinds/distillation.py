"""A small network learns the digits of mnist from a large one's probabilities instead of the digits themselves.

Result    not measured yet
Baseline  always the commonest digit
Published nothing: a test fixture
Paper     Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
Answers   Can a recipe train several networks, one after another, and keep them all?

    python -m recipes.kinds.distillation
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
    "baseline": {"metric": "majority_accuracy", "name": "always the commonest digit"},
    "published": {"value": 0.98, "source": "a fixture of the tests: nobody published it"},
    "data": ["mnist"],
}
TINY = {"examples": 150, "epochs": 2}
VARIANTS = {"without teacher": {"taught": False}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 55_000, default=5000)
    hp.Int("epochs", 1, 50, default=10)
    hp.Boolean("taught", default=True)
    hp.Float("temperature", 1.0, 10.0, default=2.0)  # Of the teacher's probabilities.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    return hp


def build_model(hp, name="student", units=16):
    """From images (B, 28, 28, 1) to logits (B, 10)."""
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    hidden = layers.Dropout(0.2)(layers.Dense(units, activation="relu")(hidden))
    model = keras.Model(images, layers.Dense(10, name="logits")(hidden), name=name)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), loss, metrics=["accuracy"])
    return model


@functools.cache
def read(split, examples):
    """Images (N, 28, 28, 1) and digits (N,)."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(examples)
    return next(dataset.batch(examples).as_numpy_iterator())


def load_data(hp, split, teacher=None):
    """Batches of images (B, 28, 28, 1) and targets (B, 10): one-hot digits, or the teacher's softened probabilities."""
    images, digits = read(split, hp["examples"])
    targets = keras.utils.to_categorical(digits, 10)
    if teacher:
        targets = ops.softmax(teacher.predict(images, verbose=0) / hp["temperature"])
    examples = tf.data.Dataset.from_tensor_slices((images, targets))
    return (shuffle(examples) if split == "train" else examples).batch(64)


def train(hp, seed, callbacks=()):
    """Trains the teacher and then the student from `seed`; returns both."""
    keras.utils.set_random_seed(seed)
    teacher, student = build_model(hp, "teacher", units=128), build_model(hp)
    for model, taught_by in ((teacher, None), (student, teacher if hp["taught"] else None)):
        model.fit(
            load_data(hp, "train", taught_by),
            validation_data=load_data(hp, "validation"),
            epochs=hp["epochs"],
            callbacks=[OneCycle(), *callbacks],
            shuffle=False,
        )
    return {"teacher": teacher, "model": student}


def evaluate(models, hp):
    """The shares of test digits that student, teacher and baseline read correctly."""
    (_, known), (images, digits) = read("train", hp["examples"]), read("test", hp["examples"])
    return {
        "accuracy": float(np.mean(classify(models["model"], images) == digits)),
        "teacher_accuracy": float(np.mean(classify(models["teacher"], images) == digits)),
        "majority_accuracy": float(np.mean(digits == np.bincount(known).argmax())),
    }


def classify(model, images):
    """Digits (N,) in images (N, 28, 28, 1), ink = 255 on paper = 0."""
    return np.argmax(model.predict(images, verbose=0), axis=1)


def show(models, hp):
    """What both models read in the first validation images."""
    images = read("validation", hp["examples"])[0][:20]
    return {"answers": "\n".join(f"{name}: {classify(model, images)}" for name, model in models.items())}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
