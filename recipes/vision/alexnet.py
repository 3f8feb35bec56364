"""AlexNet, winner of the ImageNet challenge of 2012, scaled down to Fashion-MNIST's 28 x 28 images.

Result    accuracy 0.9300 ± 0.0015 over 3 seeds, 7.9 minutes a run (10.5 CPU minutes) on 2 cores
Baseline  a support vector machine on the first 160 principal components of the images' histograms of oriented gradients
          (HOG), without augmentation
Published 0.926, a support vector machine on histograms of oriented gradients in the table of
          https://github.com/zalandoresearch/fashion-mnist, whose figures come from users and are not verified; AlexNet
          with a triplet loss has 0.899 there. Here, 55,000 of the 60,000 images are for training
Paper     Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, 2012,
          https://doi.org/10.1145/3065386. Five convolutions, overlapping pooling and dropout are the paper's. Here the
          first filters are 7 x 7 with stride 1, not 11 x 11 with stride 4, all layers are narrower, and none is split
          over two GPUs; dropout acts on the inputs of the two hidden dense layers, not on their outputs; batch
          normalization after every convolution replaces local response normalization after the first two. The training
          is modern: Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) for the convolutions and
          Adam for the rest, a one-cycle learning rate and label smoothing. Probabilities are averaged over an image
          and its mirror image; in the paper, over five crops and their mirror images.
Answers   What does AlexNet add to a support vector machine on HOG features? It classifies 93.00% of the test images
          correctly, the support vector machine 90.46%, less than the published one, whose settings we do not know.
          Without averaging over each image and its mirror image, the network gets 92.75% right.
          Does overlapping pooling help? With windows of 3 pixels, one more than their stride, 93.00% of the test images
          are classified correctly; with windows of 2, 92.92%: no difference beyond the spread of the seeds.
          What is dropout worth? With it, 95.24% of the training images and 93.00% of the test images are classified
          correctly; without it, 95.97% and 93.61%. In a training as short as this one, and augmented, it costs
          accuracy.
          What does AlexNet cost? 1,027,074 parameters and 18,723,200 multiply-adds an image.

    python -m recipes.vision.alexnet
    python -m recipes.vision.alexnet --try shoe.png
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers
from matplotlib import colormaps

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import classify_mirrored, hog_classifier, load_object
from common.metrics import multiply_adds
from common.optimizers import Muon
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "HOG and a support vector machine", "metric": "support_vector_accuracy"},
    "published": {"value": 0.926, "source": "a support vector machine on oriented gradients, Fashion-MNIST table"},
    "data": ["fashion_mnist"],
}
TINY = {"examples": 90, "epochs": 2, "width": 2, "units": 32}
VARIANTS = {  # At the learning rate of the recipe.
    "plain pooling": {"pooling": "plain"},
    "without dropout": {"dropout": 0.0},
}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}

NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 60, default=12)
    hp.Choice("batch_size", [64, 128, 256], default=128)
    hp.Int("width", 2, 32, default=8)  # 32 in the paper: its layers have 3, 8, 12, 12 and 8 times as many filters.
    hp.Choice("first_filters", [3, 5, 7, 9], default=7)  # Side of the first filters, in pixels.
    hp.Int("units", 32, 4_096, default=512)  # Of both hidden dense layers; 4,096 in the paper.
    hp.Choice("pooling", ["overlapping", "plain"], default="overlapping")
    hp.Float("dropout", 0.0, 0.8, default=0.5)  # The paper's rate.
    hp.Float("learning_rate", 1e-3, 0.1, sampling="log", default=2e-2)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-3, 1.0, sampling="log", default=0.1)  # Of the convolutions.
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the image's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """AlexNet (figure 2 of the paper), narrower: images (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    width = hp["width"]
    window = {"overlapping": 3, "plain": 2}[hp["pooling"]]

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    def convolution(inputs, filters, side, number):
        hidden = layers.Conv2D(filters, side, padding="same", use_bias=False, name=f"conv{number}")(inputs)
        hidden = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(hidden)
        return layers.ReLU(name=f"relu{number}")(hidden)

    hidden = convolution(hidden, 3 * width, hp["first_filters"], 1)  # (B, 28, 28, 3 * width)
    # With this padding the window changes what is pooled but not the size of the output.
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool1")(hidden)
    hidden = convolution(hidden, 8 * width, 5, 2)  # (B, 14, 14, 8 * width)
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool2")(hidden)
    hidden = convolution(hidden, 12 * width, 3, 3)  # (B, 7, 7, 12 * width)
    hidden = convolution(hidden, 12 * width, 3, 4)
    hidden = convolution(hidden, 8 * width, 3, 5)
    hidden = layers.MaxPooling2D(window, strides=2, padding="same", name="pool5")(hidden)  # (B, 4, 4, 8 * width)

    hidden = layers.Flatten(name="flat")(hidden)
    hidden = layers.Dropout(hp["dropout"], name="dropout6")(hidden)
    hidden = layers.Dense(hp["units"], activation="relu", name="dense6")(hidden)
    hidden = layers.Dropout(hp["dropout"], name="dropout7")(hidden)
    hidden = layers.Dense(hp["units"], activation="relu", name="dense7")(hidden)
    logits = layers.Dense(len(NAMES), name="output")(hidden)
    model = keras.Model(images, logits, name="alexnet")

    model.compile(
        optimizer=Muon(
            hp["learning_rate"], weight_decay=hp["weight_decay"], adam_lr_ratio=0.1, exclude_layers=["dense", "output"]
        ),
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
        "training_accuracy": float(np.mean(classify_mirrored(model, known)[0] == known_labels)),
    }


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
    """The filters of the first layer, and the most confident mistakes on validation."""
    filters = np.moveaxis(model.get_layer("conv1").kernel.numpy(), -1, 0)  # (3 * width, side, side, 1)
    peaks = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    filters = colormaps["RdBu_r"](filters[..., 0] / (2 * peaks[..., 0]) + 0.5)
    heading = "The first filters: red pixels excite them, blue ones inhibit them"

    images, labels = read(hp, "validation")
    answers, probabilities = classify_mirrored(model, images)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-probabilities[wrong])][:32]
    titles = [f"{NAMES[labels[index]]},\nnot {NAMES[answers[index]]}" for index in wrong]
    share = f"{np.mean(answers != labels):.1%} of the validation images are misclassified"
    return {
        "filters": image_grid(filters, [""] * len(filters), columns=8, heading=heading),
        "errors": image_grid(images[wrong], titles, columns=8, heading=f"{share}; the most confident mistakes first"),
    }


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
