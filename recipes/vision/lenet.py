"""LeNet-5, the convolutional network of 1998, classifies the handwritten digits of MNIST.

Result    accuracy 0.9945 ± 0.0005 over 3 seeds, 2.6 minutes a run (1.5 CPU minutes) on 2 cores
Baseline  the nearest mean digit (a linear classifier), and always the most frequent digit
Published 0.9925, keras mnist_cnn.py, 12 epochs: https://github.com/keras-team/keras/blob/2.3.1/examples/mnist_cnn.py
Paper     LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998,
          https://doi.org/10.1109/5.726791. Layers and sizes are the paper's. Here every map of layer C3 is connected to
          all six of S2, pooling has no weights, the output is a softmax instead of radial basis functions, and the
          rest is modern: ReLU, max pooling, AdamW, label smoothing, random shifts and rotations.
Answers   What does a convolutional network add to the nearest mean digit? It classifies 99.5% of the test digits
          correctly, the nearest-mean classifier only 82.1%.
          What do ReLU and max pooling add to the network of 1998? With tanh and average pooling instead, 99.3% of the
          test digits are classified correctly.
          What does augmentation add? Without random shifts and rotations, 99.36% of the test digits are classified
          correctly, with them 99.45%.

    python -m recipes.vision.lenet
    python -m recipes.vision.lenet --set activation=tanh pooling=average
    python -m recipes.vision.lenet --try digit.png
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers
from sklearn import neighbors

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_object
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "the nearest mean digit", "metric": "nearest_mean_accuracy"},
    "published": {"value": 0.9925, "source": "keras mnist_cnn.py, 12 epochs"},
    "data": ["mnist"],
}
TINY = {"examples": 70, "epochs": 2}
VARIANTS = {
    "tanh and average pooling": {"activation": "tanh", "pooling": "average"},
    "without augmentation": {"shift": 0.0, "turn": 0.0},
}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 60, default=12)  # As in the published run.
    hp.Choice("batch_size", [32, 64, 128, 256], default=64)
    hp.Choice("activation", ["relu", "tanh"], default="relu")  # The paper uses a scaled tanh.
    hp.Choice("pooling", ["max", "average"], default="max")  # The paper averages.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.05)
    hp.Float("shift", 0.0, 0.2, default=0.08)  # At most, as a share of the image's side.
    hp.Float("turn", 0.0, 0.1, default=0.03)  # At most, as a share of a full turn: 0.03 is 11 degrees.
    return hp


def build_model(hp):
    """LeNet-5 (figure 2 of the paper): images (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[hp["pooling"]]
    activation = hp["activation"]

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], fill_mode="constant")(hidden)
    hidden = layers.RandomRotation(hp["turn"], fill_mode="constant")(hidden)
    hidden = layers.ZeroPadding2D(2)(hidden)  # (B, 32, 32, 1), so that every stroke can be in the middle of a C1 window
    hidden = layers.Conv2D(6, 5, activation=activation, name="C1")(hidden)  # (B, 28, 28, 6)
    hidden = pooling(2, name="S2")(hidden)  # (B, 14, 14, 6)
    hidden = layers.Conv2D(16, 5, activation=activation, name="C3")(hidden)  # (B, 10, 10, 16)
    hidden = pooling(2, name="S4")(hidden)  # (B, 5, 5, 16)
    hidden = layers.Conv2D(120, 5, activation=activation, name="C5")(hidden)  # (B, 1, 1, 120)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(84, activation=activation, name="F6")(hidden)
    logits = layers.Dense(10, name="output")(hidden)
    model = keras.Model(images, logits, name="lenet")

    model.compile(
        optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def load_data(hp, split):
    """Batches of images (B, 28, 28, 1), uint8, 255 = ink, and one-hot digits (B, 10)."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    dataset = dataset.map(lambda image, digit: (image, tf.one_hot(digit, 10))).cache()
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
    """The share of test digits that the model and both baselines classify correctly."""
    (known, known_digits), (images, digits) = read(hp, "train"), read(hp, "test")
    nearest_mean = neighbors.NearestCentroid().fit(known.reshape(len(known), -1), known_digits)
    return {
        "accuracy": float(np.mean(classify(model, images)[0] == digits)),
        "nearest_mean_accuracy": nearest_mean.score(images.reshape(len(images), -1), digits),
        "majority_accuracy": float(np.mean(np.bincount(known_digits).argmax() == digits)),
    }


def read(hp, split):
    """A whole split as arrays: images (N, 28, 28, 1), uint8, and digits (N,)."""
    images, digits = map(np.concatenate, zip(*load_data(hp, split).as_numpy_iterator()))
    return images, digits.argmax(axis=1)


def classify(model, images):
    """The most probable digits (N,) of images (N, 28, 28, 1), 255 = ink and 0 = paper, and their probabilities (N,)."""
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(images, verbose=0)))
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def predict(model, assets, inputs):
    """Classifies digits: each input is the path of an image file, each output a digit and its probability, "7 (0.998)".

    An image shows one digit, dark on light or light on dark, at any size and position; there are no assets. Raises
    ValueError for a file that is not an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["seven.png"])
    """
    digits, probabilities = classify(model, np.stack([load_object(path, length=20) for path in inputs]))
    return [f"{digit} ({probability:.3f})" for digit, probability in zip(digits, probabilities)]


def show(model, hp):
    """The feature maps of one digit, and the validation digits that are misclassified."""
    images, digits = read(hp, "validation")
    answers, probabilities = classify(model, images)
    wrong = np.flatnonzero(answers != digits)
    wrong = wrong[np.argsort(-probabilities[wrong])]  # The most confident mistake comes first.
    heading = f"{len(wrong)} of {len(images):,} validation digits are misclassified; the most confident mistakes first"
    titles = [f"{digits[index]} taken for {answers[index]}" for index in wrong]

    outputs = [model.get_layer(name).output for name in ("C1", "C3")]
    first, second = (np.moveaxis(maps[0], -1, 0) for maps in keras.Model(model.inputs[0], outputs)(images[:1]))
    maps = [images[0], *first, np.zeros((1, 1)), *second]  # The empty one completes the first row.
    names = ["input", *(f"C1 map {n}" for n in range(1, 7)), "", *(f"C3 map {n}" for n in range(1, 17))]
    return {
        "errors": image_grid(images[wrong[:40]], titles, columns=8, heading=heading),
        "feature_maps": image_grid(maps, names, columns=8, heading="Feature maps of one digit (darker = more active)"),
    }


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
