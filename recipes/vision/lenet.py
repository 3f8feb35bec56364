"""LeNet-5, the convolutional network of 1998, reads the handwritten digits of mnist.

Result    accuracy 0.9946 ± 0.0002 over 3 seeds, 1.9 minutes a run (2.4 of CPU) on 2 cores
Baseline  the nearest mean digit (a linear classifier), and always the commonest digit
Anchor    0.9925, keras mnist_cnn.py, 12 epochs: https://github.com/keras-team/keras/blob/2.3.1/examples/mnist_cnn.py
Paper     LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998,
          https://doi.org/10.1109/5.726791. Layers and sizes are the paper's. Here every map of C3 sees all six of S2,
          pooling has no weights, the output is a softmax instead of radial basis functions, and the training is of
          today: ReLU, max-pooling, AdamW, label smoothing, random shifts and turns.
Answers   What do ReLU with max-pooling, and the augmentation, add to the network of 1998? Which digits stay hard?

    python -m recipes.vision.lenet
    python -m recipes.vision.lenet --set activation=tanh pooling=average
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from common import data, runner, training

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "the nearest mean digit", "metric": "nearest_mean_accuracy"},
    "anchor": {"value": 0.9925, "source": "keras mnist_cnn.py, 12 epochs"},
    "data": ["mnist"],
}
TINY = {"examples": 64, "epochs": 2}
VARIANTS = {
    "tanh and average pooling": {"activation": "tanh", "pooling": "average"},
    "without augmentation": {"shift": 0.0, "turn": 0.0},
}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # read from each split; fewer for a quick look
    hp.Int("epochs", 1, 60, default=12)  # the anchor's
    hp.Choice("batch_size", [32, 64, 128, 256], default=64)
    hp.Choice("activation", ["relu", "tanh"], default="relu")  # the paper's is a scaled tanh
    hp.Choice("pooling", ["max", "average"], default="max")  # the paper averages
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # the peak, after one epoch of warm-up
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.05)
    hp.Float("shift", 0.0, 0.2, default=0.08)  # at most, as a share of the picture's side
    hp.Float("turn", 0.0, 0.1, default=0.03)  # at most, as a share of a full turn: 0.03 are 11 degrees
    return hp


def load_data(hp, split):
    """Batches of pictures (B, 28, 28, 1), uint8, 255 = ink, and one-hot digits (B, 10)."""

    def picture_and_digit(example):
        return example["image"], tf.one_hot(example["label"], 10)

    dataset = data.load("mnist", SPLITS[split], hp["examples"]).map(picture_and_digit).cache()
    if split == "train":
        dataset = data.shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(2)


def build_model(hp):
    """LeNet-5 (figure 2 of the paper) on pictures of 0 to 255; returns logits."""
    pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[hp["pooling"]]
    activation = hp["activation"]

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # The random layers act in training alone; they are part of the model so that its seed is theirs.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], fill_mode="constant")(hidden)
    hidden = layers.RandomRotation(hp["turn"], fill_mode="constant")(hidden)
    hidden = layers.ZeroPadding2D(2)(hidden)  # (B, 32, 32, 1): strokes reach the middle of a C1 window
    hidden = layers.Conv2D(6, 5, activation=activation, name="C1")(hidden)  # (B, 28, 28, 6)
    hidden = pooling(2, name="S2")(hidden)  # (B, 14, 14, 6)
    hidden = layers.Conv2D(16, 5, activation=activation, name="C3")(hidden)  # (B, 10, 10, 16)
    hidden = pooling(2, name="S4")(hidden)  # (B, 5, 5, 16)
    hidden = layers.Conv2D(120, 5, activation=activation, name="C5")(hidden)  # (B, 1, 1, 120)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(84, activation=activation, name="F6")(hidden)
    logits = layers.Dense(10, name="output")(hidden)
    model = keras.Model(images, logits, name="lenet")

    batches_per_epoch = -(-hp["examples"] // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=hp["learning_rate"],
        warmup_steps=batches_per_epoch,
        decay_steps=max(1, (hp["epochs"] - 1) * batches_per_epoch),
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
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
        callbacks=callbacks("fit", examples=hp["examples"]),
        verbose=0,
        shuffle=False,
    )
    return model


def nearest_mean(hp):
    """The mean picture of each digit: the nearest one is the baseline's answer.

    Returns: mean pictures (10, 784), and how often each digit occurs (10,).
    """
    sums, counts = np.zeros((10, 784)), np.zeros(10)
    for images, digits in load_data(hp, "train").as_numpy_iterator():
        sums += digits.T @ images.reshape(-1, 784)
        counts += digits.sum(axis=0)
    return sums / np.maximum(counts, 1)[:, None], counts


def evaluate(model, hp):
    """Test-set figures: the share of digits read right, by the model and by both baselines."""
    images, digits = map(np.concatenate, zip(*load_data(hp, "test").as_numpy_iterator()))
    digits = digits.argmax(axis=1)
    answers, _ = classify(model, images)
    means, counts = nearest_mean(hp)
    distances = (means**2).sum(axis=1) - 2 * (images.reshape(-1, 784) @ means.T)  # squared, less |image|²
    return {
        "accuracy": float(np.mean(answers == digits)),
        "nearest_mean_accuracy": float(np.mean(distances.argmin(axis=1) == digits)),
        "majority_accuracy": float(np.mean(counts.argmax() == digits)),
    }


def classify(model, images):
    """Reads digits.

    images: (N, 28, 28, 1), ink = 255 on paper = 0.
    Returns: digits (N,), and the probability that the model gives to each (N,).
    """
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(images, verbose=0)))
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def show(model, hp):
    """What the first layers make of a digit, and every validation digit that is read wrongly."""
    images, digits = map(np.concatenate, zip(*load_data(hp, "validation").as_numpy_iterator()))
    digits = digits.argmax(axis=1)
    answers, probabilities = classify(model, images)
    wrong = np.flatnonzero(answers != digits)
    wrong = wrong[np.argsort(-probabilities[wrong])]
    titles = [f"{digits[index]} read as {answers[index]}" for index in wrong]
    return {
        "feature_maps": draw_feature_maps(model, images[0]),
        "errors": draw_errors(images[wrong], titles, f"{len(wrong)} of {len(images):,} validation digits read wrongly"),
    }


def draw_feature_maps(model, image):
    """One digit on its way through the network: C1's filters, the maps of C1 and of C3."""
    outputs = [model.get_layer(name).output for name in ("C1", "C3")]
    first, second = keras.Model(model.inputs, outputs).predict(image[None], verbose=0)
    filters = keras.ops.convert_to_numpy(model.get_layer("C1").kernel)  # (5, 5, 1, 6)

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3))
    filter_row, first_row, second_rows = right.subfigures(3, 1, height_ratios=(1.5, 1.5, 2.15))
    parts = [
        (left, "a digit, 28 x 28", [image[..., 0]], (1, 1), "gray_r"),
        (filter_row, "C1: six filters, 5 x 5 (red excites)", filters[:, :, 0].transpose(2, 0, 1), (1, 6), "RdBu_r"),
        (first_row, "C1: their maps, 28 x 28", first[0].transpose(2, 0, 1), (1, 6), "magma"),
        (second_rows, "C3: sixteen maps, 10 x 10", second[0].transpose(2, 0, 1), (2, 8), "magma"),
    ]
    for part, caption, pictures, shape, colours in parts:
        part.suptitle(caption, fontsize=11)
        low, high = np.min(pictures), np.max(pictures)
        if colours == "RdBu_r":
            low, high = -max(-low, high), max(-low, high)  # white stands for zero
        for axes, picture in zip(part.subplots(*shape, squeeze=False).flat, pictures):
            axes.imshow(picture, cmap=colours, vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[])
    return figure


def draw_errors(images, titles, heading):
    """A sheet of digits, the most confident mistake first; at most fifty."""
    rows = min(5, max(1, -(-len(images) // 10)))
    figure = Figure(figsize=(10, 0.5 + 1.25 * rows), layout="constrained")
    figure.suptitle(heading, fontsize=13)
    sheet = figure.subplots(rows, 10, squeeze=False).flat
    for axes in sheet:
        axes.axis("off")
    for axes, image, title in zip(figure.axes, images, titles):
        axes.imshow(image[..., 0], cmap="gray_r")
        axes.set_title(title, fontsize=9)
    return figure


if __name__ == "__main__":
    runner.run(__spec__.name)
