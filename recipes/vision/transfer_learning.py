"""A MobileNet trained on ImageNet is reused for cats and dogs with 20 to 9,000 labels: frozen, then fine-tuned.

Result    accuracy 0.8817 ± 0.0008 over 3 seeds, 9.1 minutes a run (12.8 CPU minutes) on 2 cores
Baseline  logistic regression on the frozen base's features, same labels; regularization chosen on validation
Published nothing for these two classes alone; 0.87 is the recipe's own aim
Paper     Howard et al.: MobileNets, 2017, https://arxiv.org/abs/1704.04861; here with a quarter of the filters. Images
          of 32 x 32 pixels are enlarged first. ImageNet has many breeds of dogs, and cats. `--set base=MobileNetV2
          picture_size=224` takes a larger base of keras.applications.
Answers   What is a pretrained base worth? With 20 labels and a frozen base, accuracy is 68.2% instead of 52.6% from
          scratch; with 9,000 and fine-tuned, 88.2% instead of 69.3% after as many passes (few; see `cats_vs_dogs`).
          Frozen features or fine-tuning? With 20 labels it hardly matters: 68.0% (logistic regression on frozen
          features) and 67.6%. With 100, 77.2% and 79.9%; with 1,000, 82.8% and 84.3%; with 9,000, 83.9% and 88.2%.
          Do frozen weights and statistics stay as they were? Yes: they move by 0 and 0, since the head is trained on
          features computed once. After thawing, weights move by up to 0.29, statistics by 0.
          Does a thawed base need a lower learning rate? Yes: with 1,000 labels, 84.3% at a tenth of the head's rate,
          81.7% at the head's. With the low rate for both, 84.2%: no difference beyond the spread of the seeds.

    python -m recipes.vision.transfer_learning
    python -m recipes.vision.transfer_learning --try dog.png
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers
from sklearn import linear_model

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_photo
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "logistic regression on frozen features", "metric": "logistic_accuracy"},
    "published": {"value": 0.87, "source": "the recipe's own aim; nothing is published for these two classes alone"},
    "data": ["cifar10"],
}
TINY = {"examples": 40, "labels": 20, "picture_size": 32, "passes": 1, "least_steps": 2, "head_steps": 2}
VARIANTS = {
    "one rate for all": {"base_rate": 1.0},
    "one low rate for all": {"base_rate": 1.0, "fine_tuning_rate": 1e-4},
}
PINNED = ("base", "picture_size", "labels", "passes", "least_steps", "head_steps")
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}

CAT, DOG = 3, 5  # Classes of CIFAR-10.
LABELS = (20, 100, 1000, 9000)
BASES = {  # These expect inputs from -1 to 1.
    "MobileNet-0.25": functools.partial(keras.applications.MobileNet, alpha=0.25),
    "MobileNet": keras.applications.MobileNet,
    "MobileNetV2": keras.applications.MobileNetV2,
}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Choice("base", list(BASES), default="MobileNet-0.25")  # Larger ones need more time.
    hp.Int("picture_size", 32, 224, step=16, default=144)  # The side to which images are enlarged.
    hp.Int("examples", 32, 10_000, default=10_000)  # Cats and dogs read from each split, at most.
    hp.Int("labels", 20, 9000, default=9000)  # At most: all numbers in LABELS up to this one are tried.
    hp.Int("batch_size", 16, 128, step=16, default=32)  # With fewer labels than this, all are one batch.
    hp.Int("passes", 1, 20, default=8)  # Over the labelled images, for fine-tuning and from scratch alike.
    hp.Int("least_steps", 2, 1000, default=300)  # The fewest updates, so that few labels get more passes.
    hp.Int("head_steps", 2, 5000, default=600)  # Of the head alone, on features that are computed once.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=3e-3)  # Of the head, and of training from scratch.
    hp.Float("fine_tuning_rate", 1e-4, 3e-2, sampling="log", default=1e-3)  # Of the head, once the base is thawed.
    hp.Float("base_rate", 0.01, 1.0, sampling="log", default=0.1)  # Of the thawed base, as a share of the head's.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    hp.Float("dropout", 0.0, 0.7, default=0.3)  # Of the features.
    return hp


def build_model(hp, name="transfer_learning", weights=None):
    """Images (B, 32, 32, 3) of 0 to 255 to the probability of a dog (B, 1); the base is frozen if pretrained."""
    size = hp["picture_size"]
    options = {"include_top": False, "weights": weights, "pooling": "avg", "name": "base"}
    base = BASES[hp["base"]](input_shape=(size, size, 3), **options)
    base.trainable = weights is None
    for layer in base.layers:
        if weights is None and isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # From scratch, the default of 0.99 would lag behind in the few updates.

    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    hidden = layers.RandomFlip("horizontal")(images)
    hidden = layers.Resizing(size, size, "bicubic")(hidden)
    hidden = layers.Rescaling(1 / 127.5, offset=-1.0)(hidden)
    # Batch normalization applies the statistics of ImageNet, also once the base is thawed.
    features = base(hidden, training=False if weights else None)  # (B, 256)
    features = layers.Dropout(hp["dropout"], name="features")(features)
    probability = layers.Dense(1, activation="sigmoid", name="dog")(features)
    model = keras.Model(images, probability, name=name)

    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"])
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


class TwoRates(keras.optimizers.AdamW):
    """AdamW whose gradient steps for the weights in `slow` use a share of the learning rate; weight decay does not."""

    def update_step(self, gradient, variable, learning_rate):  # Keras passes the raw tf.Variable.
        share = self.share if variable.ref() in self.slow else 1.0
        super().update_step(gradient, variable, learning_rate * share)


@functools.cache
def read(split, examples):
    """Images (N, 32, 32, 3), uint8, and whether they show a dog, (N, 1), 0 or 1."""
    # The images are decoded once the other eight classes are gone, which saves most of the time.
    coded = {"image": tfds.decode.SkipDecoding()}
    rows, info = tfds.load("cifar10", split=SPLITS[split], decoders=coded, with_info=True)
    rows = rows.filter(lambda row: (row["label"] == CAT) | (row["label"] == DOG)).take(examples)
    rows = rows.map(lambda row: (info.features["image"].decode_example(row["image"]), row["label"] == DOG))
    images, dogs = rows.batch(examples).get_single_element()
    return images.numpy(), dogs.numpy()[:, None].astype("float32")


@functools.cache
def encoder(**values):
    """The base as it learned from ImageNet: images (B, 32, 32, 3) to features (B, 256)."""
    model = build_model(values, weights="imagenet")
    return keras.Model(model.input, model.get_layer("features").output)


@functools.cache
def encode(split, **values):
    """Features (N, 256) of a split's images: nothing augments them, so they are computed once, for all frozen bases."""
    return encoder(**values).predict(read(split, values["examples"])[0], verbose=0)


def load_data(hp, split, labels=None, encoded=False):
    """Batches of the first images (B, 32, 32, 3), uint8, or features (B, 256), and whether they show a dog, (B, 1)."""
    images, dogs = read(split, hp["examples"])
    inputs = encode(split, **hp.values) if encoded else images
    dataset = tf.data.Dataset.from_tensor_slices((inputs[:labels], dogs[:labels]))
    dataset = shuffle(dataset) if split == "train" else dataset
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed`; returns the models by name: "model" is the one fine-tuned with the most labels."""
    for split in ("train", "validation"):
        encode(split, **hp.values)  # Before the seed is set: it is computed in the first of several trainings only.
    keras.utils.set_random_seed(seed)

    def fit(model, steps, labels, encoded=False):
        batches = load_data(hp, "train", labels, encoded).repeat().take(steps)  # Reshuffled in every pass.
        validation = load_data(hp, "validation", encoded=encoded)
        model.fit(batches, validation_data=validation, callbacks=[OneCycle(), *callbacks], shuffle=False)

    models = {}
    for labels in counts(hp):
        frozen = build_model(hp, f"frozen-{labels}", "imagenet")
        head = keras.Model(frozen.get_layer("features").input, frozen.output, name=frozen.name)
        head.compile(frozen.optimizer, "binary_crossentropy", metrics=["accuracy"])
        fit(head, hp["head_steps"], labels, encoded=True)

        steps = max(hp["least_steps"], hp["passes"] * -(-labels // hp["batch_size"]))
        scratch = build_model(hp, f"scratch-{labels}")
        fit(scratch, steps, labels)

        tuned = build_model(hp, f"fine-tuned-{labels}", "imagenet")
        tuned.get_layer("dog").set_weights(frozen.get_layer("dog").get_weights())
        base = tuned.get_layer("base")
        base.trainable = True
        for layer in base.layers:  # Batch normalization keeps its scales, offsets and statistics.
            layer.trainable = not isinstance(layer, layers.BatchNormalization)
        optimizer = TwoRates(hp["fine_tuning_rate"], weight_decay=hp["weight_decay"])
        optimizer.share, optimizer.slow = hp["base_rate"], {each.value.ref() for each in base.trainable_weights}
        tuned.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
        fit(tuned, steps, labels)
        models |= {model.name: model for model in (frozen, scratch, tuned)}
    return {"model": models.pop(tuned.name), **models}


def counts(hp):
    """The numbers of labels to train with."""
    return [labels for labels in LABELS if labels <= hp["labels"]]


def evaluate(models, hp):
    """The test accuracies of every model and of the baseline, and how far the base's weights and statistics moved."""
    results = accuracies(models, hp, "test")
    labels = counts(hp)[-1]
    results["accuracy"], results["logistic_accuracy"] = results[f"fine-tuned-{labels}"], results[f"logistic-{labels}"]
    before = encoder(**hp.values).get_layer("base")
    for strategy, model in (("frozen", models[f"frozen-{labels}"]), ("fine-tuned", models["model"])):
        for kind in ("weights", "statistics"):
            results[f"{strategy}-{kind}-moved"] = moved(before, model.get_layer("base"), kind)
    return results


def accuracies(models, hp, split):
    """The accuracy of every model, and of logistic regression on frozen features, by the number of labels."""
    (images, dogs), features = read(split, hp["examples"]), encode(split, **hp.values)
    results = {}
    for labels in counts(hp):
        for name in (f"scratch-{labels}", f"frozen-{labels}", f"fine-tuned-{labels}"):
            probabilities = models.get(name, models["model"]).predict(images, verbose=0)
            results[name] = np.mean((probabilities > 0.5) == (dogs > 0.5))
        results[f"logistic-{labels}"] = logistic(hp, labels).score(features, dogs[:, 0])
    return results


def logistic(hp, labels):
    """The baseline, fitted to the first features; how strongly it is regularized is chosen on validation."""
    known, held_out = (encode(split, **hp.values) for split in ("train", "validation"))
    known_dogs, held_out_dogs = (read(split, hp["examples"])[1][:, 0] for split in ("train", "validation"))
    candidates = [linear_model.LogisticRegression(C=strength, max_iter=1000) for strength in (0.001, 0.01, 0.1, 1, 10)]
    fitted = [candidate.fit(known[:labels], known_dogs[:labels]) for candidate in candidates]
    return max(fitted, key=lambda each: each.score(held_out, held_out_dogs))


def moved(before, after, kind):
    """The largest change in the weights of a base, or in the statistics of its batch normalization."""
    pairs = zip(before.weights, after.weights, strict=True)
    pairs = [pair for pair in pairs if ("moving_" in pair[0].path) == (kind == "statistics")]
    return max(float(np.abs(one.numpy() - other.numpy()).max()) for one, other in pairs)


def predict(model, assets, inputs):
    """Classifies pictures: each input is the path of an image file, each output "dog (0.93)" or "cat (0.88)".

    The number is the estimated probability. Of a picture that is not square, the middle is used; the animal should
    fill it. Raises ValueError for a file that is not an image, or has one colour; there are no assets.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["dog.png"])
    """
    images = np.stack([load_photo(path, side=32) for path in inputs])
    probabilities = model.predict(images, verbose=0)[:, 0]
    return [f"dog ({each:.2f})" if each > 0.5 else f"cat ({1 - each:.2f})" for each in probabilities]


def show(models, hp):
    """Validation accuracy by the number of labels: frozen, fine-tuned and from scratch, beside the baseline."""
    results = accuracies(models, hp, "validation")
    numbers = list(map(str, counts(hp)))
    picture, ax = new()
    for name, style in (("fine-tuned", "o-"), ("frozen", "o-"), ("logistic", "o:"), ("scratch", "o-")):
        label = {"logistic": "frozen, logistic regression", "scratch": "from scratch"}.get(name, name)
        ax.plot(numbers, [results[f"{name}-{number}"] for number in numbers], style, label=label)
    ax.set_title("Accuracy by the number of labels")
    plain(ax).set(xlabel="labelled images", ylabel="accuracy on validation")
    ax.legend(frameon=False)
    return {"accuracy_by_labels": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
