"""VGG, a deep network whose convolutions are all 3x3, scaled down to Fashion-MNIST's 28 x 28 images.

Result    accuracy 0.9392 ± 0.0021 over 3 seeds, 16.1 minutes a run (13.0 CPU minutes) on 1 core
Baseline  a support vector machine on the first 160 principal components of the images' histograms of oriented gradients
          (HOG), without augmentation
Published 0.935, VGG16 with 26 million parameters in the table of https://github.com/zalandoresearch/fashion-mnist,
          whose figures come from users and are not verified; it does not say whether VGG16 averages over mirror images.
          Here, 55,000 of the 60,000 images are for training
Paper     Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014,
          https://arxiv.org/abs/1409.1556. Stages of 3x3 convolutions, max pooling, a width that doubles from stage to
          stage, two dense layers with dropout, and probabilities averaged over an image and its mirror image are the
          paper's. Here there are four stages of two convolutions, not five of one to four, and all are narrower; batch
          normalization follows each convolution, and the training is modern: AdamW, a one-cycle learning rate and label
          smoothing.
Answers   What does VGG add to a support vector machine on HOG features? It classifies 93.9% of the test images
          correctly, the support vector machine 90.5%. Without averaging over each image and its mirror image, the
          network classifies 93.6% correctly.
          One 5x5 convolution or two of 3x3? Both see 5 x 5 pixels of their input. With two of 3x3, 93.92% of the test
          images are classified correctly, with 779,234 parameters and 21,022,592 multiply-adds an image; with one of
          5x5, 93.15%, with 724,610 and 16,024,448. At equal widths two of 3x3 need 18/25 of the weights; here the first
          of a stage also doubles the width, so they need more.
          What grows with depth? From stage to stage a unit's receptive field grows from 5 pixels a side to 14, 32 and
          68; from stage 3 on it is larger than the image. Of the ten validation images that excite a unit most, on
          average 53%, 63%, 71% and 86% show the same kind of garment.

    python -m recipes.vision.vgg
    python -m recipes.vision.vgg --try shoe.png
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import classify_mirrored, hog_classifier, load_object
from common.metrics import multiply_adds
from common.plots import new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "HOG and a support vector machine", "metric": "support_vector_accuracy"},
    "published": {"value": 0.935, "source": "VGG16 in the Fashion-MNIST table"},
    "data": ["fashion_mnist"],
}
TINY = {"examples": 90, "epochs": 2, "width": 4, "units": 32}
VARIANTS = {"one 5x5": {"convolutions": "5x5"}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}

NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

STAGES = (1, 2, 3, 4)
# Side of the receptive field of each stage's units, in pixels. Units of stage s look 2 ** (s - 1) pixels apart; a 3x3
# convolution adds twice this distance, a 5x5 one four times, and the pooling below a stage half of it.
SEEN = (5, 14, 32, 68)


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 60, default=12)
    hp.Choice("batch_size", [64, 128, 256], default=128)
    hp.Int("width", 4, 64, step=4, default=24)  # Filters of the first stage; 64 in the paper.
    hp.Choice("convolutions", ["3x3", "5x5"], default="3x3")  # Of each stage: two of 3x3, or one of 5x5.
    hp.Int("units", 32, 4_096, default=256)  # Of both hidden dense layers; 4,096 in the paper.
    hp.Float("dropout", 0.0, 0.8, default=0.5)  # As in the paper.
    hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=4e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 0.5, sampling="log", default=5e-2)
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the image's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """VGG with four stages: images (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    sides = {"3x3": (3, 3), "5x5": (5,)}[hp["convolutions"]]

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    for stage in STAGES:
        filters = hp["width"] * 2 ** (stage - 1)
        for place, side in enumerate(sides, start=1):
            name = f"{stage}_{place}"
            hidden = layers.Conv2D(filters, side, padding="same", use_bias=False, name=f"conv{name}")(hidden)
            hidden = layers.BatchNormalization(momentum=0.9, name=f"norm{name}")(hidden)
            hidden = layers.ReLU(name=f"relu{name}")(hidden)  # (B, 28, 28, filters), then 14, 7 and 3 pixels a side
        hidden = layers.MaxPooling2D(2, name=f"pool{stage}")(hidden)

    hidden = layers.Flatten(name="flat")(hidden)  # (B, 8 * width): one pixel is left.
    for place in (1, 2):
        hidden = layers.Dense(hp["units"], activation="relu", name=f"dense{place}")(hidden)
        hidden = layers.Dropout(hp["dropout"], name=f"dropout{place}")(hidden)
    logits = layers.Dense(len(NAMES), name="output")(hidden)
    model = keras.Model(images, logits, name="vgg")

    model.compile(
        optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def read(hp, split):
    """A split as arrays: images (N, 28, 28, 1), uint8, 0 = background, and their indices into NAMES, (N,)."""
    dataset = tfds.load("fashion_mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    images, labels = dataset.batch(hp["examples"]).get_single_element()
    return images.numpy(), labels.numpy()


def load_data(hp, split):
    """Batches of images (B, 28, 28, 1), uint8, and one-hot labels (B, 10)."""
    images, labels = read(hp, split)
    dataset = tf.data.Dataset.from_tensor_slices((images, tf.one_hot(labels, len(NAMES))))
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
    """How many of the test images the model and the baseline classify correctly, and what the model costs."""
    (known, known_labels), (images, labels) = read(hp, "train"), read(hp, "test")
    return {
        "accuracy": float(np.mean(classify_mirrored(model, images)[0] == labels)),
        "unmirrored_accuracy": float(np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels)),
        "support_vector_accuracy": hog_classifier(known, known_labels).score(images, labels),
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model.layers),
        **{f"purity_{stage}": purity(model, hp, stage) for stage in STAGES},
    }


def activity(model, stage, images):
    """What the convolutions of a stage give: (N, height, width, filters)."""
    return keras.Model(model.inputs[0], model.get_layer(f"pool{stage}").input).predict(images, verbose=0)


def purity(model, hp, stage):
    """The share of the commonest garment among the ten validation images that excite a unit most, on average."""
    images, labels = read(hp, "validation")
    strongest = activity(model, stage, images).max(axis=(1, 2))  # (N, filters)
    first = labels[np.argsort(-strongest, axis=0)[:10]]  # (10, filters)
    return float(np.mean([np.bincount(column).max() / len(column) for column in first.T]))


def predict(model, assets, inputs):
    """Classifies garments: each input is an image file's path, each output a name and its probability, "bag (0.998)".

    An image shows one garment, dark on light or light on dark, at any size and position; there are no assets. Raises
    ValueError for a file that is not an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["shoe.png"])
    """
    labels, probabilities = classify_mirrored(model, np.stack([load_object(path, length=28) for path in inputs]))
    return [f"{NAMES[label]} ({probability:.3f})" for label, probability in zip(labels, probabilities)]


def show(model, hp):
    """The images that excite three units of each stage most, faded outside the unit's receptive field."""
    images, _ = read(hp, "validation")
    picture, axes = new(8, 4.6, rows=len(STAGES), columns=9)
    for stage, size, row in zip(STAGES, SEEN, axes):
        step = 2 ** (stage - 1)
        maps = activity(model, stage, images)
        strongest = maps.max(axis=(1, 2))
        units = np.argsort(-strongest.std(axis=0))[:3]
        for unit, places in zip(units, np.split(row, 3)):
            for ax, index in zip(places, np.argsort(-strongest[:, unit])):
                top, left = np.unravel_index(maps[index, :, :, unit].argmax(), maps.shape[1:3])
                draw(ax, images[index, ..., 0], step * np.array([top + 0.5, left + 0.5]) - 0.5, size / 2)
        row[0].set_ylabel(f"stage {stage}\n{size} x {size}\npixels", rotation=0, ha="right", va="center")
    for number, ax in enumerate(axes[0, 1::3], start=1):
        ax.set_title(f"unit {number} of each stage", fontsize=10)
    picture.suptitle("The three validation images that excite a unit most; what the unit does not see is faded")
    return {"units": picture}


def draw(ax, picture, centre, half):
    """Draws an image, faded except for a square around a pixel."""
    rows, columns = np.indices(picture.shape)
    seen = np.maximum(np.abs(rows - centre[0]), np.abs(columns - centre[1])) < half
    ax.imshow(np.where(seen, picture, picture // 4), cmap="gray_r", vmin=0, vmax=255)
    if not seen.all():
        ax.contour(seen, [0.5], colors="#c2410c", linewidths=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#cbd5e1")


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
