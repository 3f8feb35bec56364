"""A MobileNet trained on ImageNet tells the cats of cifar10 from the dogs: first frozen, then fine-tuned.

Result    not measured yet
Baseline  always the commoner animal
Published nothing: a fixture of the tests
Paper     Howard et al., MobileNets, 2017, https://arxiv.org/abs/1704.04861
Answers   Do the weights of a frozen base stay where they were, and the batch-norm statistics of a thawed one?

    python -m recipes.kinds.frozen_base
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "majority_accuracy", "name": "always the commoner animal"},
    "published": {"value": 0.85, "source": "a fixture of the tests: nobody published it"},
    "data": ["cifar10"],
}
TINY = {"examples": 21, "epochs": 2, "batch_size": 16}
VARIANTS = {"low rate": {"learning_rate": 1e-4}}
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
CAT, DOG = 3, 5  # Labels of cifar10.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 16, 9000, default=1000)
    hp.Int("epochs", 1, 20, default=3)  # Frozen, and as many fine-tuned.
    hp.Choice("batch_size", [16, 32, 64], default=32)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("fine_tuning_rate", 1e-6, 1e-3, sampling="log", default=1e-4)
    return hp


def build_base(weights=None):
    """From images of -1 to 1 (B, 128, 128, 3) to features (B, 256); weights: "imagenet", None starts at random."""
    return keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=weights, pooling="avg", input_shape=(128, 128, 3), name="base"
    )


def build_model(hp, weights=None):
    """The frozen base with a new head: from images (B, 32, 32, 3) to a logit (B, 1) that is positive for dogs."""
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    base = build_base(weights)
    base.trainable = False
    features = base(layers.Rescaling(1 / 127.5, -1.0)(layers.Resizing(128, 128)(images)))
    return compiled(keras.Model(images, layers.Dense(1, name="head")(features), name="frozen"), hp["learning_rate"])


def compiled(model, learning_rate):
    """Gives the model its loss and an optimizer of its own; returns it."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(learning_rate), loss, metrics=[keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)]
    )
    return model


def thaw(base):
    """Lets the base learn, but for its batch norms, which keep statistics, scale and shift."""
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)


@functools.cache
def read(split, examples):
    """Images of cats and dogs (N, 32, 32, 3) and labels (N, 1), 1 = dog."""
    dataset = tfds.load("cifar10", split=SPLITS[split], as_supervised=True)
    animals = dataset.filter(lambda image, label: (label == CAT) | (label == DOG)).take(examples)
    images, labels = next(animals.batch(examples).as_numpy_iterator())
    return images, (labels[:, None] == DOG).astype("float32")


def load_data(hp, split):
    """Batches of images (B, 32, 32, 3) and labels (B, 1)."""
    examples = tf.data.Dataset.from_tensor_slices(read(split, hp["examples"]))
    if split == "train":
        examples = shuffle(examples)
    return examples.batch(hp["batch_size"])


def train(hp, seed, callbacks=()):
    """Trains head and then base from `seed`; returns the network after each."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp, "imagenet")

    def fit(model):
        model.fit(
            load_data(hp, "train"),
            validation_data=load_data(hp, "validation"),
            epochs=hp["epochs"],
            callbacks=[OneCycle(), *callbacks],
            shuffle=False,  # `load_data` did.
        )

    fit(model)
    frozen = keras.models.clone_model(model)
    frozen.set_weights(model.get_weights())
    thaw(model.get_layer("base"))
    tuned = compiled(keras.Model(model.inputs, model.outputs, name="tuned"), hp["fine_tuning_rate"])
    fit(tuned)
    return {"model": tuned, "frozen": frozen}


def evaluate(models, hp):
    """The share of test animals that are told apart, the baseline's, and how far the base moved in either fit."""
    (_, known), (_, labels) = read("train", hp["examples"]), read("test", hp["examples"])
    base, frozen, tuned = build_base("imagenet"), *(models[name].get_layer("base") for name in ("frozen", "model"))
    return {
        "accuracy": models["model"].evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["accuracy"],
        "majority_accuracy": float(np.mean(labels == np.round(known.mean()))),
        "frozen_moved": farthest(base.weights, frozen.weights),
        "tuned_moved": farthest(base.weights, tuned.weights),
        "tuned_statistics_moved": farthest(base.non_trainable_weights, tuned.non_trainable_weights),
    }


def farthest(before, after):
    """The largest difference between the weights of two networks."""
    return max(float(np.abs(one.numpy() - other.numpy()).max()) for one, other in zip(before, after, strict=True))


def show(models, hp):
    """The first validation images with the logit of each."""
    images = read("validation", hp["examples"])[0][:10]
    logits = models["model"].predict(images, verbose=0)[:, 0]
    return {"answers": image_grid(images, [f"{logit:+.2f}" for logit in logits], heading="logit of a dog")}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
