"""A network that learned the digits 0 to 4 of mnist is reused for 5 to 9, with 10 to 5,000 labels.

Result    accuracy 0.9943 ± 0.0005 over 3 seeds, 14.5 minutes a run on 1 core
Baseline  always the commonest of the five new digits
Anchor    0.992 with all 29,404 labels, features frozen, keras mnist_transfer_cnn.py:
          https://github.com/keras-team/keras/blob/2.3.1/examples/mnist_transfer_cnn.py
Paper     Yosinski, Clune, Bengio, Lipson: How transferable are features in deep neural networks?, 2014,
          https://arxiv.org/abs/1411.1792. There the halves are ImageNet's, frozen layer by layer; here all
          convolutions are frozen at once, and the number of labels varies.
Answers   Up to how many labels does a pretrained base help? What does fine-tuning add to frozen features?
          Do frozen weights and batch-norm statistics stay where they were? (The "moved" figures.)

    python -m recipes.vision.transfer_learning
    python -m recipes.vision.transfer_learning --set base=MobileNetV2 labels=500 steps=100

The second puts a network of keras.applications with ImageNet weights in the base's place, on cifar10.
"""

import functools
import socket

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from common import data, errors, runner, training

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "always the commonest new digit", "metric": "majority_accuracy"},
    "anchor": {"value": 0.992, "source": "keras mnist_transfer_cnn.py, all 29,404 labels"},
    "data": ["mnist"],
}
TINY = {"examples": 256, "labels": 10, "base_epochs": 1, "steps": 2}
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
LABELS = (10, 50, 100, 500, 1000, 5000, 25_000)
# What each network of keras.applications wants for pictures of 0 to 255: a scale and an offset.
APPLICATIONS = {
    "MobileNetV2": (1 / 127.5, -1.0),
    "ResNet50V2": (1 / 127.5, -1.0),
    "Xception": (1 / 127.5, -1.0),
    "MobileNetV3Small": (1.0, 0.0),
    "EfficientNetV2B0": (1.0, 0.0),
}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Choice("base", ["digits", *APPLICATIONS], default="digits")  # digits: our own, which needs no download
    hp.Choice("picture_size", [96, 128, 160, 224], default=96)  # cifar10's 32 are enlarged for keras.applications
    hp.Int("examples", 64, 54_000, default=54_000)  # read from each split; fewer for a quick look
    hp.Choice("labels", LABELS, default=5000)  # of the new classes, at most; all smaller counts are tried too
    hp.Int("base_epochs", 1, 40, default=5)
    hp.Int("steps", 1, 5000, default=750)  # for the new head and again for fine-tuning; from scratch gets both
    hp.Choice("batch_size", [16, 32, 64, 128], default=64)  # fewer labels than that make one smaller batch
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # of whatever starts from random weights
    hp.Float("fine_tuning_rate", 1e-5, 3e-3, sampling="log", default=1e-3)  # of the base, once it thaws
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)  # AdamW's usual
    hp.Float("dropout", 0.0, 0.7, default=0.3)  # of the features, before the head
    hp.Float("shift", 0.0, 0.2, default=0.08)  # at most, as a share of the picture's side
    hp.Float("turn", 0.0, 0.1, default=0.03)  # at most, as a share of a full turn: 0.03 are 11 degrees
    return hp


@functools.cache
def read(name, split, examples):
    """Pictures (N, height, width, channels), uint8, and labels (N,): read once for all fits of a run."""
    dataset = data.load(name, split, examples).map(lambda example: (example["image"], example["label"]))
    return tuple(map(np.concatenate, zip(*dataset.batch(1000).as_numpy_iterator())))


def load_data(hp, split, task="new", labels=None):
    """Batches of pictures (B, height, width, channels), uint8, and class numbers (B,), from 0.

    task: "old", the digits that the base learns (0 to 4), or "new", the others (5 to 9; with cifar10 all classes).
    labels: keep so many examples, equally many of every class, the first in the official order; None keeps all.
    """
    on_digits = hp["base"] == "digits"
    images, classes = read("mnist" if on_digits else "cifar10", SPLITS[split], hp["examples"])
    if on_digits:
        chosen = classes < 5 if task == "old" else classes >= 5
        images, classes = images[chosen], classes[chosen] % 5
    if labels is not None:
        numbers = np.unique(classes)
        chosen = np.concatenate([np.flatnonzero(classes == number)[: labels // len(numbers)] for number in numbers])
        images, classes = images[chosen], classes[chosen]
    dataset = tf.data.Dataset.from_tensor_slices((images, classes))
    if split == "train":
        dataset = data.shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(2)


def build_base(hp, weights=None):
    """From pictures of 0 to 255 to features (B, features).

    weights: "imagenet" fetches the weights of a network of keras.applications; None starts at random.
    """
    if hp["base"] != "digits":
        scale, offset = APPLICATIONS[hp["base"]]
        size = hp["picture_size"]
        images = keras.Input((32, 32, 3), dtype="uint8", name="images")
        hidden = layers.Rescaling(scale, offset)(layers.Resizing(size, size)(images))
        network = getattr(keras.applications, hp["base"])
        network = network(include_top=False, weights=weights, input_shape=(size, size, 3), pooling="avg")
        return keras.Model(images, network(hidden), name="base")

    images = keras.Input((28, 28, 1), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 255)(images)
    # Pooling comes before batch norm, which has a quarter of the work then.
    for filters, kernel_size, pool in ((16, 5, True), (32, 5, True), (64, 3, False), (64, 3, True)):
        hidden = layers.Conv2D(filters, kernel_size, padding="same", use_bias=False)(hidden)
        if pool:
            hidden = layers.MaxPooling2D()(hidden)  # (B, 14, 14, 16), (B, 7, 7, 32), at last (B, 3, 3, 64)
        hidden = layers.BatchNormalization()(hidden)
        hidden = layers.ReLU()(hidden)
    return keras.Model(images, layers.Flatten()(hidden), name="base")


def build_model(hp, base=None):
    """A base with a new head, compiled; returns logits.

    base: a trained one, copied and frozen; None builds one at random that learns too.
    """
    own_base = build_base(hp)
    if base is not None:
        own_base.set_weights(base.get_weights())
        own_base.trainable = False

    images = keras.Input(own_base.input_shape[1:], dtype="uint8", name="images")
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], fill_mode="constant")(images)
    hidden = layers.RandomRotation(hp["turn"], fill_mode="constant")(hidden)
    features = layers.Dropout(hp["dropout"])(own_base(hidden))
    logits = layers.Dense(5 if hp["base"] == "digits" else 10, name="head")(features)
    model = keras.Model(images, logits, name="transfer_learning")
    compile_model(model, hp, hp["learning_rate"], hp["steps"] * (2 if base is None else 1))
    return model


def thaw(network):
    """Lets a frozen base learn again, but for its batch norms: they keep statistics, scale and shift.

    Calling the base with `training=False` would not do: a functional model that trains overrides it (Keras issue
    20285), and a batch norm that may learn moves its statistics. With `trainable = False` it does neither.
    """
    network.trainable = True
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            thaw(layer)
        elif isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def compile_model(model, hp, learning_rate, steps):
    """Sets loss and optimizer: a tenth of the steps warms up to `learning_rate`, a cosine leads back to zero."""
    warm_up = -(-steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def fetch_base(hp):
    """The base from keras.applications, with its ImageNet weights.

    Raises:
        errors.RecipeError: they are neither in ~/.keras/models nor to be downloaded.
    """
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds; Keras sets none, so a silent network would hang for ever
    try:
        return build_base(hp, weights="imagenet")
    except Exception as error:
        if not isinstance(error, OSError) and "URL fetch failure" not in str(error):  # Keras's bare Exception
            raise
        raise errors.RecipeError(f"{hp['base']} needs its ImageNet weights: {error}") from error
    finally:
        socket.setdefaulttimeout(patience)


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed`; returns the models by name, first the one fine-tuned with most labels, last the base."""
    keras.utils.set_random_seed(seed)

    def fit(model, stage, batches, examples, epochs=1, task="new"):
        model.fit(
            batches,
            validation_data=load_data(hp, "validation", task),
            epochs=epochs,
            callbacks=callbacks(stage, examples=examples),
            verbose=0,
            shuffle=False,
        )
        return model

    if hp["base"] == "digits":
        batches = load_data(hp, "train", task="old")
        model = build_model(hp)
        compile_model(model, hp, hp["learning_rate"], hp["base_epochs"] * len(batches))
        fit(model, "base", batches, len(batches) * hp["batch_size"], hp["base_epochs"], task="old")
        base = model.get_layer("base")
    else:
        base = fetch_base(hp)

    models = {"base": base}
    for labels in (count for count in LABELS if count <= hp["labels"]):
        batches = load_data(hp, "train", labels=labels)
        steps, examples = hp["steps"], hp["steps"] * labels // len(batches)
        batches = batches.repeat()  # shuffled anew in every pass
        scratch = fit(build_model(hp), f"scratch-{labels}", batches.take(2 * steps), 2 * examples)
        frozen = fit(build_model(hp, base), f"frozen-{labels}", batches.take(steps), examples)
        fine_tuned = build_model(hp, base)
        fine_tuned.set_weights(frozen.get_weights())
        thaw(fine_tuned.get_layer("base"))
        compile_model(fine_tuned, hp, hp["fine_tuning_rate"], steps)
        fit(fine_tuned, f"fine-tuned-{labels}", batches.take(steps), examples)
        models |= {f"scratch-{labels}": scratch, f"frozen-{labels}": frozen, f"fine-tuned-{labels}": fine_tuned}
    return dict(reversed(models.items()))


def accuracies(models, batches):
    """The accuracy of every model, by name; the base alone has no answers."""
    return {
        name: model.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
        for name, model in models.items()
        if name != "base"
    }


def moved(base, model):
    """How far the base's weights, and its batch-norm statistics, are at most from where they were."""
    farthest = {"weights": 0.0, "statistics": 0.0}
    for before, after in zip(base.weights, model.get_layer("base").weights, strict=True):
        kind = "statistics" if "moving_" in after.path else "weights"
        farthest[kind] = max(farthest[kind], float(np.abs(before.numpy() - after.numpy()).max()))
    return farthest


def evaluate(models, hp):
    """Test-set figures: the share of pictures put into the right new class, by every model; and what moved."""
    most = hp["labels"]
    results = accuracies(models, load_data(hp, "test"))
    for strategy in ("frozen", "fine-tuned"):
        for kind, distance in moved(models["base"], models[f"{strategy}-{most}"]).items():
            results[f"{strategy}-{kind}-moved"] = distance
    new, held_out = (np.concatenate([classes for _, classes in load_data(hp, split)]) for split in ("train", "test"))
    majority_accuracy = float(np.mean(held_out == np.bincount(new).argmax()))
    return {"accuracy": results[f"fine-tuned-{most}"], "majority_accuracy": majority_accuracy, **results}


def classify(model, images):
    """Names the digit, 5 to 9 (with cifar10 the class, 0 to 9), on each picture.

    images: (N, 28, 28, 1), ink = 255 on paper = 0; with cifar10 (N, 32, 32, 3).
    Returns: digits (N,), and the probability that the model gives to each (N,).
    """
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(images, verbose=0)))
    first = 10 - probabilities.shape[1]  # the new classes are the last of ten
    return first + probabilities.argmax(axis=1), probabilities.max(axis=1)


def show(models, hp):
    """Validation accuracy against the number of labels, for the three ways to learn from them."""
    results = accuracies(models, load_data(hp, "validation"))
    counts = [count for count in LABELS if count <= hp["labels"]]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    table = "labels      " + "".join(f"{labels:8,}" for labels in counts)
    for strategy, colour in (("fine-tuned", "#d1495b"), ("frozen", "#00798c"), ("scratch", "#8d8d8d")):
        curve = [results[f"{strategy}-{labels}"] for labels in counts]
        axes.plot(counts, curve, "o-", color=colour, label=strategy)
        table += f"\n{strategy:12}" + "".join(f"{accuracy:8.4f}" for accuracy in curve)
    axes.set(xscale="log", yscale="logit", xlabel="labels of the new classes", ylabel="validation accuracy")
    axes.set_xticks(counts, [f"{labels:,}" for labels in counts])
    ticks = [tick for tick in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995) if tick > min(results.values())]
    axes.set_yticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return {"accuracy_by_labels": figure, "accuracies": table}


if __name__ == "__main__":
    runner.run(__spec__.name)
