"""A wide and shallow residual network classifies the photos of CIFAR-10 after 18 epochs on two CPU cores.

Result    accuracy 0.9394 ± 0.0008 over 3 seeds, 19.6 minutes a run (35.5 CPU minutes) on 2 cores
Baseline  a ridge classifier on 400 random, whitened patches as the filters of one convolution; with 4,000 learned
          filters, Coates, Lee and Ng, 2011, reach 0.796
Published 0.9400, airbench94, SGD for 10 epochs on an A100, trained on all 50,000 images, with six views of each test
          image and no shortcuts: https://arxiv.org/abs/2404.00498; its version with Muon needs 8 epochs
Paper     He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385.
          The idea of shortcuts is theirs; here each skips a single convolution, and no ReLU follows the addition.
          `vision.shortcuts` measures what they add to networks of 8 to 56 layers. From airbench and Page, How to Train
          Your ResNet, 2018: fixed whitening filters, three wide stages of two convolutions, max pooling instead of
          strides, scaled logits, label smoothing, six views of a test image (here probabilities are averaged, there
          logits); without airbench's GELU, alternating flips or averaged weights. Muon:
          https://kellerjordan.github.io/posts/muon/.
Answers   What does a residual network add to a single convolution? It classifies 93.9% of the test images correctly;
          random patches as the filters of one convolution give 69.8%.
          What do six views of an image add? Averaging over shifts and flips, it classifies 93.9% correctly; from one
          view, 92.8%.

    python -m recipes.vision.resnet
    python -m recipes.vision.resnet --set epochs=12
    python -m recipes.vision.resnet --try frog.png
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import linear_model

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_photo
from common.metrics import multiply_adds
from common.optimizers import Muon
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "ridge classifier on random patches", "metric": "patches_accuracy"},
    "published": {"value": 0.94, "source": "airbench94, 10 epochs on an A100"},
    "data": ["cifar10"],
}
TINY = {"examples": 24, "epochs": 2, "batch_size": 16, "width": 4, "patches": 8}
PINNED = ("patches", "precision", "shortcuts")
SPLITS = {"train": "train[:49000]", "validation": "train[49000:]", "test": "test"}

MEAN, DEVIATION = 120.0, 63.0  # Of all pixels and colours of train, about.
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 24, 49_000, default=49_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 100, default=18)
    hp.Choice("batch_size", [16, 128, 256, 512, 1024], default=512)
    hp.Int("width", 4, 128, step=4, default=64)  # Filters of the first stage; the others have four times as many.
    hp.Boolean("shortcuts", default=True)
    hp.Choice("precision", ["mixed_bfloat16", "float32"], default="mixed_bfloat16")  # float32 suits older processors.
    hp.Float("learning_rate", 1e-3, 0.3, sampling="log", default=0.05)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-3, 1.0, sampling="log", default=0.1)  # Of the convolutions.
    hp.Float("label_smoothing", 0.0, 0.4, default=0.2)
    hp.Int("shift", 0, 4, default=2)  # Pixels, at most, in training.
    hp.Int("patches", 8, 1_600, default=400)  # Of the baseline.
    return hp


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalization in bfloat16; on CPUs with AMX, Keras's casts to float32 cost more than the convolutions."""

    def call(self, inputs, training=False):
        if not training:
            return super().call(inputs)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            ops.convert_to_tensor(self.gamma),
            ops.convert_to_tensor(self.beta),
            ops.convert_to_tensor(self.moving_mean),
            ops.convert_to_tensor(self.moving_variance),
            self.epsilon,
            exponential_avg_factor=1 - self.momentum,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return outputs


def build_model(hp):
    """Three residual stages: images (B, 32, 32, 3) of 0 to 255 to logits (B, 10)."""

    precision = hp["precision"]

    def convolution(inputs, filters, name, pool=1):
        hidden = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=precision, name=name)(inputs)
        hidden = ops.max_pool(hidden, pool)
        hidden = FusedBatchNormalization(momentum=0.6, epsilon=1e-5, dtype=precision, name=f"{name}_norm")(hidden)
        return ops.relu(hidden)

    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / DEVIATION, offset=-MEAN / DEVIATION)(images)
    # The random layers act only in training; they are part of the model so that they share its seed.
    hidden = layers.RandomFlip("horizontal")(hidden)
    hidden = layers.RandomTranslation(hp["shift"] / 32, hp["shift"] / 32, "reflect", "nearest")(hidden)
    whitening = layers.Conv2D(24, 2, use_bias=False, dtype=precision, name="whitening")
    whitening.trainable = False  # `train` sets its filters.
    hidden = ops.relu(whitening(hidden))  # (B, 31, 31, 24)
    for stage, filters in enumerate((hp["width"], 4 * hp["width"], 4 * hp["width"]), start=1):
        hidden = convolution(hidden, filters, f"stage{stage}", pool=2)  # (B, 15, 15, 64), then 7 and 3 pixels, 256 maps
        residual = convolution(hidden, filters, f"stage{stage}_residual")
        hidden = hidden + residual if hp["shortcuts"] else residual
    hidden = ops.max(hidden, axis=(1, 2))  # (B, 256)
    logits = layers.Dense(10, use_bias=False, name="logits")(hidden)
    logits = logits / 9  # Together with label smoothing, this keeps the logits small.
    model = keras.Model(images, logits, name="resnet")

    model.compile(
        optimizer=Muon(hp["learning_rate"], weight_decay=hp["weight_decay"], momentum=0.6, exclude_layers=["logits"]),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=8,
    )
    return model


def load_data(hp, split):
    """Batches of images (B, 32, 32, 3), uint8, and one-hot labels (B, 10)."""
    dataset = tfds.load("cifar10", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    dataset = dataset.map(lambda image, label: (image, tf.one_hot(label, 10))).cache()
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.get_layer("whitening").kernel.assign(whitening_filters(read(hp, "train")[0][:5000]))
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return portable(model)


def whitening_filters(images):
    """Filters (2, 2, 3, 24): twelve that decorrelate patches of images (N, 32, 32, 3), and their negatives."""
    patches = np.lib.stride_tricks.sliding_window_view((images - MEAN) / DEVIATION, (2, 2), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 2 * 2 * 3)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = directions / np.sqrt(variances + 5e-4)  # The smallest variance is about as large: mostly noise.
    return np.concatenate([filters, -filters], axis=1).reshape(2, 2, 3, 24)


def portable(model):
    """The same network with Keras's own batch normalization, so that it loads without this file."""

    def replace(layer):
        fused = isinstance(layer, FusedBatchNormalization)
        return (layers.BatchNormalization if fused else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=replace)
    copy.set_weights(model.get_weights())
    return copy


def read(hp, split):
    """A whole split as arrays: images (N, 32, 32, 3), uint8, and labels (N,)."""
    images, labels = map(np.concatenate, zip(*load_data(hp, split).as_numpy_iterator()))
    return images, labels.argmax(axis=1)


def classify(model, images):
    """Probabilities (N, 10) of images (N, 32, 32, 3), averaged over six views: three shifts, each also mirrored."""
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    views = np.concatenate([images, padded[:, :-2, :-2], padded[:, 2:, 2:]])
    views = np.concatenate([views, views[:, :, ::-1]])  # (6 * N, 32, 32, 3)
    probabilities = probabilities_of(model, views).reshape(6, len(images), 10)
    return np.average(probabilities, axis=0, weights=[2, 1, 1, 2, 1, 1])  # The image counts as much as both copies.


def probabilities_of(model, images):
    """Probabilities (N, 10) of each image as it is."""
    return ops.convert_to_numpy(ops.softmax(model.predict(images, batch_size=500, verbose=0)))


def accuracy(probabilities, labels):
    """The share of images whose most probable class is the right one."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def evaluate(model, hp):
    """Test accuracy from six views of each image, from one, and of the baseline; what the network costs."""
    images, labels = read(hp, "test")
    return {
        "accuracy": accuracy(classify(model, images), labels),
        "one_view_accuracy": accuracy(probabilities_of(model, images), labels),
        "patches_accuracy": patches_accuracy(hp, images, labels),
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model.layers),
    }


def patches_accuracy(hp, images, labels):
    """Ridge classification after Coates and Ng, 2011: whitened patches as filters, thresholds, means by quadrant."""
    known, known_labels = read(hp, "train")
    corners = np.random.default_rng(0).integers(0, 27, (20 * hp["patches"], 2))
    patches = [known[number % len(known), top : top + 6, left : left + 6] for number, (top, left) in enumerate(corners)]
    patches = np.stack(patches).reshape(len(corners), -1).astype("float32")  # (P, 6 * 6 * 3)
    mean = patches.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    whiten = directions / np.sqrt(variances + 100) @ directions.T
    filters = (patches[: hp["patches"]] - mean) @ whiten
    filters /= np.linalg.norm(filters, axis=1, keepdims=True) + 1e-6
    kernel = (whiten @ filters.T).reshape(6, 6, 3, -1)

    @tf.function
    def features(batch):
        responses = tf.nn.conv2d(tf.cast(batch, tf.float32), kernel, 1, "VALID") - mean @ whiten @ filters.T
        responses = tf.concat([tf.nn.relu(responses - 1), tf.nn.relu(-responses - 1)], axis=-1)
        return tf.reshape(tf.nn.avg_pool2d(responses, 13, 14, "SAME"), (len(batch), -1))

    def all_features(pictures):
        return np.concatenate([features(batch) for batch in np.array_split(pictures, -(-len(pictures) // 500))])

    ridge = linear_model.RidgeClassifier(alpha=1.0).fit(all_features(known), known_labels)
    return ridge.score(all_features(images), labels)


def predict(model, assets, inputs):
    """Classifies photos: each input is an image file's path, each output a class and its probability, "frog (0.95)".

    The square in the middle is scaled to 32 x 32 pixels; there are no assets. Raises ValueError for a file that is not
    an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["frog.png"])
    """
    probabilities = classify(model, np.stack([load_photo(path, side=32) for path in inputs]))
    return [f"{NAMES[row.argmax()]} ({row.max():.2f})" for row in probabilities]


def show(model, hp):
    """The most confident mistakes on validation."""
    images, labels = read(hp, "validation")
    probabilities = classify(model, images)
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-probabilities.max(axis=1)[wrong])][:24]
    titles = [f"{NAMES[labels[index]]},\nnot {NAMES[answers[index]]}" for index in wrong]
    heading = f"{np.mean(answers != labels):.1%} of {len(images):,} validation images are misclassified"
    return {"errors": image_grid(images[wrong], titles, columns=8, heading=f"{heading}; the most confident mistakes")}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
