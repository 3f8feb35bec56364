"""A network trained on the digits 0 to 4 of MNIST is reused for 5 to 9, with 10 to 5,000 labels.

Result    accuracy 0.9943 ± 0.0005 over 3 seeds, 14.5 minutes a run on 1 core
Baseline  always the most frequent of the five new digits
Published 0.992, frozen, 29,404 labels: https://github.com/keras-team/keras/blob/2.3.1/examples/mnist_transfer_cnn.py
Paper     Yosinski, Clune, Bengio, Lipson: How transferable are features in deep neural networks?, 2014,
          https://arxiv.org/abs/1411.1792. The paper splits ImageNet in halves and freezes layer by layer; here all
          convolutions are frozen at once, and the number of labels varies.
Answers   Does a pretrained base help? With 10 labels it reaches 93.3% instead of 79.0% from scratch, with 100 97.7% and
          96.3%.
          When is transfer worth nothing? With 1,000 labels: from scratch, a network reaches 99.2%, fine-tuned 99.1%.
          What does fine-tuning add? 99.4% instead of 98.6% with frozen features.
          Do frozen weights move? No: weights move by 0, statistics by 0.

    python -m recipes.vision.digit_transfer
    python -m recipes.vision.digit_transfer --set labels=500 steps=100
    python -m recipes.vision.digit_transfer --try digit.png
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_object
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "always the commonest new digit", "metric": "majority_accuracy"},
    "published": {"value": 0.992, "source": "keras mnist_transfer_cnn.py, all 29,404 labels"},
    "data": ["mnist"],
}
TINY = {"examples": 270, "labels": 10, "base_epochs": 2, "steps": 2}
PINNED = ("labels", "base_epochs", "steps")
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}

LABELS = (10, 50, 100, 500, 1000, 5000, 25_000)


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 54_000, default=54_000)  # Images read from each split, at most.
    hp.Choice("labels", LABELS, default=5000)  # Of the new classes, at most; all smaller counts are tried too.
    hp.Int("base_epochs", 1, 40, default=5)
    hp.Int("steps", 1, 5000, default=750)  # Of the new head, then of fine-tuning; training from scratch gets both.
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)  # Fewer labels make one smaller batch.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # For what starts from random weights.
    hp.Float("fine_tuning_rate", 1e-5, 3e-3, sampling="log", default=1e-3)  # For all weights, once the base is thawed.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("dropout", 0.0, 0.7, default=0.3)  # Applied to the features.
    hp.Float("shift", 0.0, 0.2, default=0.08)  # At most, as a share of the image's side.
    hp.Float("turn", 0.0, 0.1, default=0.03)  # At most, as a share of a full turn: 0.03 is 11 degrees.
    return hp


def build_model(hp, name="digit_transfer", base=None, thawed=False):
    """Images (B, 28, 28, 1) to logits (B, 5); a trained `base` is copied, and frozen unless `thawed`."""
    own_base = build_base()
    if base is not None:
        own_base.set_weights(base.get_weights())
        freeze(own_base, thawed)

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], fill_mode="constant")(images)
    hidden = layers.RandomRotation(hp["turn"], fill_mode="constant")(hidden)
    features = layers.Dropout(hp["dropout"])(own_base(hidden))
    logits = layers.Dense(5, name="head")(features)
    model = keras.Model(images, logits, name=name)
    learning_rate = hp["fine_tuning_rate"] if thawed else hp["learning_rate"]
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=hp["weight_decay"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def build_base():
    """Images (B, 28, 28, 1) to features (B, 576)."""
    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # Pooling first leaves a quarter of the work to batch norm.
    for filters, kernel_size, pool in ((16, 5, True), (32, 5, True), (64, 3, False), (64, 3, True)):
        hidden = layers.Conv2D(filters, kernel_size, padding="same", use_bias=False)(hidden)
        hidden = layers.MaxPooling2D()(hidden) if pool else hidden  # (B, 14, 14, 16), (B, 7, 7, 32), (B, 3, 3, 64)
        hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    return keras.Model(images, layers.Flatten()(hidden), name="base")


def freeze(base, thawed):
    """Freezes a base or, if `thawed`, only its batch norms; `training=False` would be overridden (keras#20285)."""
    base.trainable = thawed
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


@functools.cache
def read(split, examples):
    """Images (N, 28, 28, 1), uint8, and digits (N,), read once for all fits of a run."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(examples)
    return next(dataset.batch(examples).as_numpy_iterator())


def load_data(hp, split, task="new", labels=None):
    """Batches of images (B, 28, 28, 1), uint8, and class numbers (B,), from 0.

    task: "old" for the digits that the base learns (0 to 4), "new" for the others (5 to 9).
    labels: the number of examples to keep, equally many of every class, the first ones; None keeps all.
    """
    images, digits = read(split, hp["examples"])
    chosen = digits < 5 if task == "old" else digits >= 5
    images, classes = images[chosen], digits[chosen] % 5
    if labels is not None:
        chosen = np.concatenate([np.flatnonzero(classes == number)[: labels // 5] for number in range(5)])
        images, classes = images[chosen], classes[chosen]
    dataset = tf.data.Dataset.from_tensor_slices((images, classes))
    dataset = shuffle(dataset) if split == "train" else dataset
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed`; returns all models by name, and the one fine-tuned with most labels as "model"."""
    keras.utils.set_random_seed(seed)
    options = {"callbacks": [OneCycle(), *callbacks], "shuffle": False}  # `load_data` did.
    model = build_model(hp, "base")
    batches, validation = (load_data(hp, split, "old") for split in ("train", "validation"))
    model.fit(batches, validation_data=validation, epochs=hp["base_epochs"], **options)
    base = model.get_layer("base")

    models = []
    options["validation_data"] = load_data(hp, "validation")
    for labels in LABELS[: LABELS.index(hp["labels"]) + 1]:
        batches = load_data(hp, "train", labels=labels).repeat()  # Reshuffled in every pass.
        scratch = build_model(hp, f"scratch-{labels}")
        scratch.fit(batches.take(2 * hp["steps"]), **options)
        frozen = build_model(hp, f"frozen-{labels}", base)
        frozen.fit(batches.take(hp["steps"]), **options)
        fine_tuned = build_model(hp, f"fine-tuned-{labels}", base, thawed=True)
        fine_tuned.set_weights(frozen.get_weights())
        fine_tuned.fit(batches.take(hp["steps"]), **options)
        models += [scratch, frozen, fine_tuned]
    return {"base": base, **{model.name: model for model in models[:-1]}, "model": fine_tuned}


def evaluate(models, hp):
    """The accuracy of every model on the test images, the baseline's, and how far weights and statistics moved."""
    test = load_data(hp, "test")
    results = accuracies(models, test)
    for strategy, model in (("frozen", models[f"frozen-{hp['labels']}"]), ("fine-tuned", models["model"])):
        for kind in ("weights", "statistics"):
            results[f"{strategy}-{kind}-moved"] = moved(models["base"], model, kind)
    known, held_out = (np.concatenate([classes for _, classes in each]) for each in (load_data(hp, "train"), test))
    majority_accuracy = float(np.mean(held_out == np.bincount(known).argmax()))
    return {"accuracy": results[models["model"].name], "majority_accuracy": majority_accuracy, **results}


def accuracies(models, batches):
    """The accuracy of every model, by name; the base alone has no head."""
    classifiers = [model for name, model in models.items() if name != "base"]
    return {each.name: each.evaluate(batches, verbose=0, return_dict=True)["accuracy"] for each in classifiers}


def moved(base, model, kind):
    """The largest change in the base's weights, or in its batch-norm statistics."""
    pairs = zip(base.weights, model.get_layer("base").weights, strict=True)
    pairs = [(before, after) for before, after in pairs if ("moving_" in after.path) == (kind == "statistics")]
    return max(float(np.abs(before.numpy() - after.numpy()).max()) for before, after in pairs)


def predict(model, assets, inputs):
    """Classifies images: each input is the path of an image file, each output a digit and its probability, "7 (0.998)".

    An image shows one digit from 5 to 9, dark on light or light on dark, at any size and position; there are no assets.
    Raises ValueError for a file that is not an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["seven.png"])
    """
    images = np.stack([load_object(path, length=20) for path in inputs])
    probabilities = ops.convert_to_numpy(ops.softmax(model.predict(images, verbose=0)))
    return [f"{5 + each.argmax()} ({each.max():.3f})" for each in probabilities]


def show(models, hp):
    """The share of validation images that each of the three strategies misclassifies, by the number of labels."""
    results = accuracies(models, load_data(hp, "validation"))
    counts = LABELS[: LABELS.index(hp["labels"]) + 1]
    picture, ax = new()
    for strategy in ("scratch", "frozen", "fine-tuned"):
        ax.plot(list(map(str, counts)), [1 - results[f"{strategy}-{count}"] for count in counts], "o-", label=strategy)
    ticks = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    plain(ax).set(yscale="log", yticks=ticks, yticklabels=ticks, xlabel="labels", ylabel="validation: share of errors")
    ax.minorticks_off()
    ax.legend(frameon=False)
    return {"accuracy_by_labels": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
