"""Networks of 8, 20 and 56 layers, with and without shortcuts, show what depth does to both.

Result    accuracy 0.5373 ± 0.0058 over 3 seeds, 7.8 minutes a run (11.5 CPU minutes) on 2 cores
Baseline  the plain network of 56 layers, as deep as the recipe's own
Published 0.5, the recipe's own aim: the paper trains on all of CIFAR-10 for 164 epochs, where ResNet-56 reaches 0.9303
Paper     He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, section 4.2,
          https://arxiv.org/abs/1512.03385. Shortcuts without weights, as in the paper, so that both networks of a depth
          cost the same. Here the images have half the side, there are 10,000 of them for 8 epochs instead of 164, only
          flips augment them, weight decay is decoupled, and the learning rate follows one cycle.
Answers   How do shortcuts help deep networks? Each block adds its result to its input, so input and gradient can bypass
          its convolutions. After as many epochs, plain networks of 8, 20 and 56 layers classify 57.7%, 50.6% and 26.2%
          of the test images correctly; with shortcuts, at the same cost, 58.4%, 59.4% and 53.7%: depth costs them less.
          Is it overfitting that makes deep plain networks worse? On the images that they were trained on, the plain
          network of 56 layers classifies 25.5% correctly and that of 8 layers 65.3%: the deeper one underfits, as in
          the paper after 164 epochs.
          What happens to the gradient? Before training, at 56 layers, the norm of the gradient for the first
          convolution's weights is 491 times the last one's without shortcuts, and 2.4 times with them.

    python -m recipes.vision.shortcuts
    python -m recipes.vision.shortcuts --set epochs=30 examples=45000
    python -m recipes.vision.shortcuts --try frog.png
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_photo
from common.plots import VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "plain, 56 layers", "metric": "plain_accuracy"},
    "published": {"value": 0.5, "source": "the recipe's own aim"},
    "data": ["cifar10"],
}
TINY = {"examples": 24, "epochs": 2, "batch_size": 16, "depth": 8, "networks": 2}
PINNED = ("networks",)
SPLITS = {"train": "train[:45000]", "validation": "train[45000:]", "test": "test"}

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DEPTHS = (8, 20, 56)


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 24, 45_000, default=10_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 100, default=8)
    hp.Choice("batch_size", [16, 32, 64, 128, 256], default=128)
    hp.Choice("depth", list(DEPTHS), default=56)  # Of the recipe's own network.
    hp.Boolean("shortcuts", default=True)
    hp.Float("learning_rate", 0.01, 1.0, sampling="log", default=0.1)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 0.1, sampling="log", default=1e-3)
    hp.Int("networks", 2, 6, default=6)  # How many are trained: at least the recipe's own and one as deep.
    return hp


def build_model(hp):
    """A network of section 4.2, which first halves the images' side: (B, 32, 32, 3) of 0 to 255 to logits (B, 10)."""

    def convolution(inputs, filters, stride=1):
        hidden = layers.Conv2D(
            filters, 3, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(inputs)
        return layers.BatchNormalization(momentum=0.9)(hidden)

    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 63, offset=-120 / 63)(images)  # Mean 0 and variance 1, about.
    hidden = layers.RandomFlip("horizontal")(hidden)  # In training only.
    hidden = layers.AveragePooling2D(2)(hidden)  # (B, 16, 16, 3)
    hidden = ops.relu(convolution(hidden, 16))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range((hp["depth"] - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            residual = ops.relu(convolution(hidden, filters, stride))
            residual = convolution(residual, filters)
            if hp["shortcuts"]:
                if (
                    stride == 2
                ):  # The pixels on which the convolution's windows are centred, and zeros for the new maps.
                    hidden = hidden[:, 1::2, 1::2]
                    hidden = ops.concatenate([hidden, ops.zeros_like(hidden)], axis=-1)
                residual = residual + hidden
            hidden = ops.relu(residual)  # (B, 16, 16, 16), then (B, 8, 8, 32), then (B, 4, 4, 64)
    logits = layers.Dense(10, name="logits")(ops.mean(hidden, axis=(1, 2)))
    model = keras.Model(images, logits, name=name_of(hp))

    model.compile(
        optimizer=keras.optimizers.SGD(hp["learning_rate"], momentum=0.9, weight_decay=hp["weight_decay"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=8,
    )
    return model


def name_of(hp):
    """A network's name, such as "residual-56"."""
    return f"{'residual' if hp['shortcuts'] else 'plain'}-{hp['depth']}"


def load_data(hp, split):
    """Batches of images (B, 32, 32, 3), uint8, and one-hot labels (B, 10)."""
    dataset = tfds.load("cifar10", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    dataset = dataset.map(lambda image, label: (image, tf.one_hot(label, 10))).cache()
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def networks(hp):
    """The hyperparameters of all networks, by name; the recipe's own comes last."""
    every = [{**hp.values, "depth": depth, "shortcuts": shortcuts} for depth in DEPTHS for shortcuts in (False, True)]
    others = [each for each in every if name_of(each) != name_of(hp.values)]
    others.sort(key=lambda each: each["depth"] != hp["depth"])  # The one as deep comes first, whatever is left out.
    return {name_of(each): each for each in [*others[: hp["networks"] - 1], hp.values]}


def train(hp, seed, callbacks=()):
    """Trains every network from `seed`; returns them by name, the recipe's own as "model"."""
    models = {}
    for name, values in networks(hp).items():
        keras.utils.set_random_seed(seed)
        models[name] = build_model(values)
        models[name].fit(
            load_data(values, "train"),
            validation_data=load_data(values, "validation"),
            epochs=hp["epochs"],
            callbacks=[OneCycle(), *callbacks],
            shuffle=False,  # `load_data` did.
        )
    return {"model": models.pop(name), **models}


def read(hp, split):
    """A whole split as arrays: images (N, 32, 32, 3), uint8, and labels (N,)."""
    images, labels = map(np.concatenate, zip(*load_data(hp, split).as_numpy_iterator()))
    return images, labels.argmax(axis=1)


def accuracy(model, images, labels):
    """The share of images that are classified correctly."""
    return float(np.mean(model.predict(images, batch_size=500, verbose=0).argmax(axis=1) == labels))


def evaluate(models, hp):
    """Accuracies of all networks on test, and on the images they were trained on; how their gradients grow."""
    results = {}
    for name, values in networks(hp).items():
        model = models.get(name, models["model"])
        norms = gradient_norms(values)
        results[f"{name}-accuracy"] = accuracy(model, *read(hp, "test"))
        results[f"{name}-training-accuracy"] = accuracy(model, *read(hp, "train"))
        results[f"{name}-gradient-growth"] = norms[0] / norms[-1]
    own = {"accuracy": results[f"{name}-accuracy"], "plain_accuracy": results[f"plain-{hp['depth']}-accuracy"]}
    return {**own, **results}


def gradient_norms(hp):
    """The norm of the loss's gradient for the kernel of each convolution before training, from first to last."""
    keras.utils.set_random_seed(0)
    model = build_model(hp)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, layers.Conv2D)]
    images, labels = next(load_data({**hp, "batch_size": 128}, "validation").as_numpy_iterator())
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.categorical_crossentropy(labels, model(images, training=True), from_logits=True))
    return [float(tf.norm(gradient)) for gradient in tape.gradient(loss, kernels)]


def predict(model, assets, inputs):
    """Classifies photos: each input is an image file's path, each output a class and its probability, "frog (0.95)".

    The square in the middle is scaled to 32 x 32 pixels; there are no assets. Raises ValueError for a file that is not
    an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["frog.png"])
    """
    images = np.stack([load_photo(path, side=32) for path in inputs])
    probabilities = ops.convert_to_numpy(ops.softmax(model.predict(images, verbose=0)))
    return [f"{NAMES[row.argmax()]} ({row.max():.2f})" for row in probabilities]


def show(models, hp):
    """Errors by depth on training and validation images, and the gradient of each layer before training."""
    picture, (left, right) = new(9, 4, columns=2)
    chosen = networks(hp)
    for kind, colour in (("plain", "#1d4ed8"), ("residual", VALIDATION)):
        names = [name for name in chosen if name.startswith(kind)]
        names.sort(key=lambda name: chosen[name]["depth"])
        depths = [chosen[name]["depth"] for name in names]
        for split, style in (("validation", "o-"), ("train", "o:")):
            images = read(hp, split)
            errors = [100 - 100 * accuracy(models.get(name, models["model"]), *images) for name in names]
            label = f"{kind}, {'training' if split == 'train' else split} images"
            left.plot(depths, errors, style, color=colour, label=label)
        for name in names:
            if chosen[name]["depth"] == hp["depth"]:
                norms = gradient_norms(chosen[name])
                right.plot(range(1, len(norms) + 1), norms, color=colour, label=name.replace("-", ", ") + " layers")
    plain(left).set(title="Errors after the same training", xlabel="layers", ylabel="error, %", xticks=DEPTHS)
    plain(right).set(title="Gradient before training", xlabel="layer", ylabel="norm for its weights", yscale="log")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=9)
    return {"depth": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
