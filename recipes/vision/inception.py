"""Inception (GoogLeNet), which applies filters of several sizes side by side, classifies the garments of Fashion-MNIST.

Result    accuracy 0.9388 ± 0.0012 over 3 seeds, 15.4 minutes a run (11.4 CPU minutes) on 1 core
Baseline  a support vector machine on the first 160 principal components of the images' histograms of oriented gradients
          (HOG), without augmentation
Published 0.937, GoogLeNet in the table of https://github.com/zalandoresearch/fashion-mnist, whose figures come from
          users and are not verified. It names neither augmentation nor averaging over mirror images; the first answer
          has this recipe's accuracy without the latter. Here, 55,000 of the 60,000 images are for training
Paper     Szegedy et al.: Going Deeper with Convolutions, 2014, https://arxiv.org/abs/1409.4842. Blocks of four branches
          with their 1x1 reductions, and average pooling over the whole image at the end, are the paper's. Here there
          are four blocks, not nine, and narrower ones, after a short stem, without auxiliary classifiers; batch
          normalization follows each convolution; the training is modern: Muon (Jordan et al., 2024,
          https://kellerjordan.github.io/posts/muon/) for the convolutions and Adam for the rest, a one-cycle learning
          rate and label smoothing. Probabilities are averaged over an image and its mirror image, in the paper over 144
          crops and seven networks.
Answers   What does Inception add to a support vector machine on HOG features? It classifies 93.88% of the test images
          correctly, the support vector machine 90.46%. Without averaging over each image and its mirror image, the
          network classifies 93.69% correctly.
          What are 1x1 convolutions for? Above all for narrowing the input of the 3x3 and 5x5 convolutions. With these
          reductions the network has 558,202 parameters, an image takes 33,934,080 multiply-adds, and 93.88% of the test
          images are classified correctly. Without them (the other 1x1 convolutions stay) it has 1,392,090 parameters,
          an image takes 78,992,128 multiply-adds, and 93.75% are classified correctly: more than twice the
          multiply-adds, and in accuracy no difference beyond the spread of the seeds.

    python -m recipes.vision.inception
    python -m recipes.vision.inception --try shoe.png
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
from common.optimizers import Muon
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "HOG and a support vector machine", "metric": "support_vector_accuracy"},
    "published": {"value": 0.937, "source": "GoogLeNet in the Fashion-MNIST table"},
    "data": ["fashion_mnist"],
}
TINY = {"examples": 90, "epochs": 2, "width": 2, "blocks": 1}
# At the learning rate of the recipe.
VARIANTS = {"without reductions": {"reductions": False}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}

NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

BRANCHES = ("1x1", "3x3", "5x5", "pooled")
COLOURS = ("#94a3b8", "#1d4ed8", "#c2410c", "#0f766e")  # Of the branches.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 60, default=6)
    hp.Choice("batch_size", [64, 128, 256], default=256)
    hp.Int("width", 2, 32, step=2, default=16)  # Filters of the first block's narrowest branch; 32 in the paper.
    hp.Int("blocks", 1, 9, default=4)  # 9 in the paper.
    hp.Boolean("reductions", default=True)  # 1x1 convolutions that narrow the input of the 3x3 and 5x5 ones.
    hp.Float("dropout", 0.0, 0.8, default=0.3)  # 0.4 in the paper.
    hp.Float("learning_rate", 1e-3, 0.1, sampling="log", default=3e-2)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-3, 1.0, sampling="log", default=0.1)  # Of the convolutions.
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Float("shift", 0.0, 0.2, default=0.07)  # At most, as a share of the image's side: 0.07 is 2 pixels.
    return hp


def build_model(hp):
    """GoogLeNet with fewer blocks: images (B, 28, 28, 1) of 0 to 255 to logits (B, 10)."""
    width = hp["width"]

    def convolution(inputs, filters, side, name):
        hidden = layers.Conv2D(filters, side, padding="same", use_bias=False, name=name)(inputs)
        hidden = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(hidden)
        return layers.ReLU(name=f"{name}_relu")(hidden)

    def block(inputs, width, name):
        """Four branches side by side (figure 2b of the paper): (B, H, W, C) to (B, H, W, 8 * width)."""
        narrow = convolution(inputs, 3 * width, 1, f"{name}_3x3_reduction") if hp["reductions"] else inputs
        narrower = convolution(inputs, width // 2, 1, f"{name}_5x5_reduction") if hp["reductions"] else inputs
        pooled = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(inputs)
        branches = [
            convolution(inputs, 2 * width, 1, f"{name}_1x1"),
            convolution(narrow, 4 * width, 3, f"{name}_3x3"),
            convolution(narrower, width, 5, f"{name}_5x5"),
            convolution(pooled, width, 1, f"{name}_pooled"),
        ]
        return layers.Concatenate(name=name)(branches)

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], "constant", "nearest", name="shift")(hidden)
    hidden = layers.RandomFlip("horizontal", name="flip")(hidden)

    hidden = convolution(hidden, width, 3, "stem1")  # (B, 28, 28, width)
    hidden = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(hidden)
    hidden = convolution(hidden, 4 * width, 3, "stem2")  # (B, 14, 14, 4 * width)
    hidden = block(hidden, width, "block1")  # (B, 14, 14, 8 * width)
    hidden = layers.MaxPooling2D(3, strides=2, padding="same", name="pool2")(hidden)
    for number in range(2, hp["blocks"] + 1):
        hidden = block(hidden, 2 * width, f"block{number}")  # (B, 7, 7, 16 * width)
    hidden = layers.GlobalAveragePooling2D(name="average")(hidden)  # (B, 16 * width)
    hidden = layers.Dropout(hp["dropout"], name="dropout")(hidden)
    logits = layers.Dense(len(NAMES), name="output")(hidden)
    model = keras.Model(images, logits, name="inception")

    model.compile(
        optimizer=Muon(
            hp["learning_rate"], weight_decay=hp["weight_decay"], adam_lr_ratio=0.1, exclude_layers=["output"]
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
    """Multiply-adds of each branch with and without reductions, and the accuracy lost without a branch."""
    picture, (left, right) = new(9, 4, columns=2)
    blocks = [f"block{number}" for number in range(1, hp["blocks"] + 1)]
    places = np.arange(len(blocks))
    unreduced = build_model({**hp.values, "reductions": False})
    for each, shift in ((model, -0.2), (unreduced, 0.2)):
        bottom = np.zeros(len(blocks))
        for branch, colour in zip(BRANCHES, COLOURS):
            # The name of a branch's reduction, if it has one, begins with the branch's own.
            starts = [f"{block}_{branch}" for block in blocks]
            costs = [multiply_adds([layer for layer in each.layers if layer.name.startswith(name)]) for name in starts]
            left.bar(places + shift, np.array(costs) / 1e6, 0.36, bottom, color=colour)
            bottom += np.array(costs) / 1e6
    plain(left).set(title="Cost with 1x1 reductions (left bars) and without", ylabel="million multiply-adds an image")

    images, labels = (each[:2_000] for each in read(hp, "validation"))
    accuracy = np.mean(classify_mirrored(model, images)[0] == labels)
    for branch, colour, shift in zip(BRANCHES, COLOURS, (-0.3, -0.1, 0.1, 0.3)):
        left_over = [np.mean(without(model, f"{block}_{branch}", images) == labels) for block in blocks]
        right.bar(places + shift, 100 * (accuracy - np.array(left_over)), 0.18, color=colour, label=branch)
    plain(right).set(title="Accuracy lost if a branch is zero (not retrained)", ylabel="percentage points, validation")
    for ax in (left, right):
        ax.set_xticks(places, blocks)
    picture.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return {"branches": picture}


def without(model, name, images):
    """The most probable labels (N,) if the output of a branch is set to zero."""
    norm = model.get_layer(f"{name}_norm")
    weights = norm.get_weights()
    norm.set_weights([np.zeros_like(weights[0]), np.zeros_like(weights[1]), *weights[2:]])  # Its scale and offset.
    labels, _ = classify_mirrored(model, images)
    norm.set_weights(weights)
    return labels


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
