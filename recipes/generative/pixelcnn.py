"""PixelCNN writes digits pixel by pixel, each from those before it, so that the likelihood of a digit is exact.

Result    nats 86.842 with one seed, 27.8 minutes a run (21.6 CPU minutes) on 1 core
Baseline  a logistic regression of each pixel on all those before it
Published 81.30 nats, PixelCNN in van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016,
          https://arxiv.org/abs/1601.06759, table 4; there, all images are binarized once; here, training binarizes
          them anew in every step, and lasts two epochs
Paper     van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016,
          https://arxiv.org/abs/1606.05328. Here the network is small enough for a CPU, kernels cover 2 x 3 pixels,
          images are shifted instead of kernels masked, and a pixel sees fifteen rows and columns back.
Answers   What does the network gain over a regression? A digit costs 86.84 nats; with a logistic regression on all
          earlier pixels 97.27.
          How much does depth help? With 4 layers instead of 12, a pixel sees 7 rows and columns back instead of 15, a
          run takes 597 CPU seconds instead of 1297, and a digit costs 91.57 nats instead of 86.84.
          How much does width help? not measured yet
          Is a completed digit still the same digit? Given its upper half, 61% of the completed digits are read by
          LeNet-5 as the whole digit was; if the lower half is copied from the training digit whose upper half is most
          similar, 86%.
          How good are its samples? Their Fréchet distance from the test digits is 13.32, that of training images 0.09,
          of a mixture of Gaussians 0.48; 65% of the samples lie among the test digits, and 37% of these have samples
          near them; with training images for samples, it is 93% and 96%.

    python -m recipes.generative.pixelcnn
    python -m recipes.generative.pixelcnn --set layers=4
    python -m recipes.generative.pixelcnn --try digit.png
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import in_characters, load_object
from common.plots import mosaic
from common.samples import binarize, bounds, features_of, regression_nats, yardstick

PROMISE = {
    "figure": {"metric": "nats", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"name": "regression on earlier pixels", "metric": "regression_nats"},
    "published": {"value": 81.30, "source": "PixelCNN, van den Oord et al. 2016"},
    "data": ["mnist"],
    "tolerance": 0.5,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 100, "epochs": 2, "layers": 1, "channels": 4}
VARIANTS = {"4 layers": {"layers": 4}, "twice the channels": {"channels": 24}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}
SIDE = 28
REACH = 3  # How many rows above a pixel, and how many columns beside it, the first layer sees.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 55_000, default=55_000)  # Images read from each split, at most.
    hp.Int("epochs", 1, 200, default=2)
    hp.Choice("batch_size", [16, 32, 64, 128], default=32)
    hp.Int("layers", 1, 20, default=12)  # After the first.
    hp.Int("channels", 4, 256, default=12)
    hp.Float("learning_rate", 1e-5, 1e-1, sampling="log", default=1e-2)  # The peak of the one-cycle schedule.
    return hp


def build_model(hp):
    """Gated PixelCNN (figure 2 of the paper): binary images (B, 28, 28, 1) to the logits of every pixel, likewise.

    The vertical stack sees only the rows above a pixel, the horizontal stack the pixels to its left as well.
    """
    channels = hp["channels"]
    images = keras.Input((SIDE, SIDE, 1), name="images")
    # Shifted by one row or column, so that no pixel is among those from which it is predicted.
    above = layers.ZeroPadding2D(((REACH, 0), (REACH, REACH)))(layers.Cropping2D(((0, 1), (0, 0)))(images))
    left = layers.ZeroPadding2D(((0, 0), (REACH, 0)))(layers.Cropping2D(((0, 0), (0, 1)))(images))
    vertical = gate(layers.Conv2D(2 * channels, (REACH, 2 * REACH + 1), name="vertical_0")(above))
    horizontal = gate(layers.Conv2D(2 * channels, (1, REACH), name="horizontal_0")(left))
    for n in range(1, hp["layers"] + 1):
        above = layers.ZeroPadding2D(((1, 0), (1, 1)))(vertical)
        vertical = gate(layers.Conv2D(2 * channels, (2, 3), name=f"vertical_{n}")(above))
        left = layers.ZeroPadding2D(((0, 0), (1, 0)))(horizontal)
        both = layers.Conv2D(2 * channels, (1, 2), name=f"horizontal_{n}")(left)
        both = both + layers.Conv2D(2 * channels, 1, name=f"joint_{n}")(vertical)
        horizontal = horizontal + layers.Conv2D(channels, 1, name=f"residual_{n}")(gate(both))
    hidden = layers.Conv2D(2 * channels, 1, activation="relu", name="hidden")(ops.relu(horizontal))
    network = keras.Model(images, layers.Conv2D(1, 1, name="logits")(hidden), name="pixelcnn")
    model = Likelihood(network)
    model.compile(keras.optimizers.Adam(hp["learning_rate"], global_clipnorm=1.0), steps_per_execution=16)
    return model


def gate(both):
    """The gated activation unit, equation 2 of the paper: (..., 2 * channels) to (..., channels)."""
    signal, opening = ops.split(both, 2, axis=-1)
    return ops.tanh(signal) * ops.sigmoid(opening)


class Likelihood(keras.Model):
    """Trains a network by maximum likelihood: the loss is the mean number of nats of an image, binarized anew."""

    def __init__(self, network):
        super().__init__(name=network.name)
        self.network = network
        self.seed = keras.random.SeedGenerator()
        self.built = True

    def call(self, images):
        binary = ops.cast(keras.random.uniform(ops.shape(images), seed=self.seed) < images, "float32")
        nats = nats_of(self.network(binary), binary)
        self.add_loss(ops.mean(nats))
        return nats


def nats_of(logits, binary):
    """Minus the logarithm of the probabilities (B,) of binary images: the sum over their pixels."""
    return ops.sum(ops.softplus((1 - 2 * binary) * logits), axis=(1, 2, 3))


def load_data(hp, split):
    """Batches of images (B, 28, 28, 1), from 0 = paper to 1 = ink; those of validation and test are binary."""
    images = read(hp, split)
    dataset = tf.data.Dataset.from_tensor_slices(images if split == "train" else binarize(images))
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def read(hp, split):
    """A whole split: images (N, 28, 28, 1), from 0 = paper to 1 = ink."""
    dataset = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    images, _ = next(dataset.batch(hp["examples"]).as_numpy_iterator())
    return images / np.float32(255)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the network."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model.network


def evaluate(model, hp):
    """Nats of the binarized test images, the network's and the baseline's, and how good samples are."""
    training, images = read(hp, "train"), read(hp, "test")
    binary, seen = binarize(images), binarize(training)
    nats = nats_of(model.predict(binary, batch_size=500, verbose=0), binary)
    completed = sample(model, binary[:2_000], known_rows=SIDE // 2)
    halves, known = (each[:, : SIDE // 2].reshape(-1, SIDE**2 // 2) for each in (binary[:2_000], seen))
    nearest = seen[((known**2).sum(axis=1) - 2 * halves @ known.T).argmin(axis=1)]  # By its upper half.
    copied = np.concatenate([binary[:2_000, : SIDE // 2], nearest[:, SIDE // 2 :]], axis=1)
    digits, completed, copied = (features_of(each)[1] for each in (binary[:2_000], completed, copied))
    return {
        "nats": float(ops.mean(nats)),
        "regression_nats": float(np.mean(regression_nats(training, images))),
        "completed_alike": float(np.mean(digits == completed)),  # As LeNet-5 reads them.
        "copied_alike": float(np.mean(digits == copied)),
        **yardstick(sample(model, np.zeros_like(images)), images),
        **bounds(training, images),
    }


def sample(model, images, known_rows=0, seed=0):
    """Completes binary images (N, 28, 28, 1), of which the first rows are known; every call gives the same ones."""
    draw = sampler(model)
    noise = np.random.default_rng(seed).random(images.shape, dtype="float32")
    parts = [slice(start, start + 1_000) for start in range(0, len(images), 1_000)]
    return np.concatenate([draw(images[part], noise[part], tf.constant(known_rows)) for part in parts])


@functools.lru_cache(maxsize=2)  # What it returns is traced once, for any number of images.
def sampler(model):
    """A function from images, noise and the number of known rows to completed images.

    It evaluates every layer once at every pixel, as the network does with a whole image: what is kept of each layer is
    the row above in the vertical stack, and the pixel to the left in the horizontal one.
    """
    layer, depth = model.get_layer, sum(each.name.startswith("joint") for each in model.layers)
    channels = layer("horizontal_0").filters // 2

    def extended(values, side):
        return tf.pad(values, ((0, 0), (0, 0), (side, side), (0, 0)))

    some = tf.TensorSpec((None, SIDE, SIDE, 1))

    @tf.function(input_signature=[some, some, tf.TensorSpec((), "int32")])
    def draw(images, noise, known_rows):
        count = tf.shape(images)[0]
        rows = tf.TensorArray(tf.float32, SIDE)
        pixels_above = tf.zeros((count, REACH, SIDE, 1))
        above = [tf.zeros((count, 1, SIDE, channels))] * depth
        for row in tf.range(SIDE):
            vertical, reached, joint = gate(layer("vertical_0")(extended(pixels_above, REACH))), [], []
            for n in range(1, depth + 1):
                reached.append(vertical)
                vertical = gate(layer(f"vertical_{n}")(extended(tf.concat([above[n - 1], vertical], axis=1), 1)))
                joint.append(layer(f"joint_{n}")(vertical))
            above = reached

            pixels = tf.TensorArray(tf.float32, SIDE)
            pixels_left = tf.zeros((count, 1, REACH, 1))
            left = [tf.zeros((count, 1, 1, channels))] * depth
            for column in tf.range(SIDE):
                horizontal, reached = gate(layer("horizontal_0")(pixels_left)), []
                for n in range(1, depth + 1):
                    reached.append(horizontal)
                    both = layer(f"horizontal_{n}")(tf.concat([left[n - 1], horizontal], axis=2))
                    both += joint[n - 1][:, :, column, None]
                    horizontal += layer(f"residual_{n}")(gate(both))
                left = reached
                probability = tf.sigmoid(layer("logits")(layer("hidden")(tf.nn.relu(horizontal))))[:, 0, 0]
                drawn = tf.cast(noise[:, row, column] < probability, tf.float32)
                pixel = tf.where(row < known_rows, images[:, row, column], drawn)  # (N, 1)
                pixels = pixels.write(column, pixel)
                pixels_left = tf.concat([pixels_left[:, :, 1:], pixel[:, None, None]], axis=2)

            written = tf.transpose(pixels.stack(), (1, 0, 2))  # (N, 28, 1)
            rows = rows.write(row, written)
            pixels_above = tf.concat([pixels_above[:, 1:], written[:, None]], axis=1)
        return tf.transpose(rows.stack(), (1, 0, 2, 3))

    return draw


def predict(model, assets, inputs):
    """Completes digits from their upper half: each input is an image file's path, each output the digit in characters.

    An image shows one digit, dark on light or light on dark, at any size and position; there are no assets. Raises
    ValueError for a file that is not an image, or that shows nothing.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["seven.png"])
    """
    images = binarize(np.stack([load_object(path, length=20) for path in inputs]) / 255)
    return list(map(in_characters, sample(model, images, known_rows=SIDE // 2)))


def show(model, hp):
    """Samples, and validation digits completed from their upper half in several ways."""
    images = binarize(read(hp, "validation"))[:16]
    completed = [sample(model, images, known_rows=SIDE // 2, seed=seed) for seed in range(4)]
    half = images * (np.arange(SIDE) < SIDE // 2)[:, None, None]
    return {
        "samples": mosaic(sample(model, np.zeros((160, SIDE, SIDE, 1), "float32")), 20, "Digits drawn pixel by pixel"),
        "completions": mosaic(
            np.concatenate([images, half, *completed]), 16, "Digits, their upper halves, and four completions of each"
        ),
    }


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
