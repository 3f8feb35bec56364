"""A generator and a discriminator, each with its own optimizer, compete on mnist at 8 x 8 pixels.

Result    not measured yet
Baseline  the mean training image, always
Published nothing: a test fixture
Paper     Goodfellow et al., Generative Adversarial Nets, 2014, https://arxiv.org/abs/1406.2661
Answers   Can a recipe train two networks in one `train_step`, and can its killed run be resumed?

    python -m recipes.kinds.adversarial
"""

import keras
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.data import shuffle
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "distance", "better": "lower"},
    "monitor": {"metric": "val_distance", "better": "lower"},
    "baseline": {"metric": "mean_image_distance", "name": "the mean training image, always"},
    "published": {"value": 1.0, "source": "a fixture of the tests: nobody published it"},
    "data": ["mnist"],
}
TINY = {"examples": 150, "epochs": 2}
VARIANTS = {"low rate": {"learning_rate": 1e-4}}
SPLITS = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}
SIDE, NOISE = 8, 16


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 100, 55_000, default=5000)
    hp.Int("epochs", 1, 100, default=20)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    return hp


def build_model(hp):
    """Generator, from noise (B, 16) to pixels (B, 64), and discriminator, from pixels to a logit (B, 1)."""
    noise, pixels = keras.Input((NOISE,), name="noise"), keras.Input((SIDE * SIDE,), name="pixels")
    made = layers.Dense(SIDE * SIDE, activation="sigmoid")(layers.Dense(32, activation="relu")(noise))
    logit = layers.Dense(1)(layers.Dense(32, activation="relu")(pixels))
    generator = keras.Model(noise, made, name="generator")
    return Adversaries(generator, keras.Model(pixels, logit, name="discriminator"), hp["learning_rate"])


class Adversaries(keras.Model):
    """Both networks and all that their training changes, created before `fit`, as a resumed run needs it."""

    def __init__(self, generator, discriminator, learning_rate):
        super().__init__(name="adversaries")
        self.generator, self.generator_optimizer = generator, keras.optimizers.Adam(learning_rate)
        self.discriminator, self.discriminator_optimizer = discriminator, keras.optimizers.Adam(learning_rate)
        self.generator_optimizer.build(generator.trainable_variables)
        self.discriminator_optimizer.build(discriminator.trainable_variables)
        self.means = [keras.metrics.Mean(name) for name in ("loss", "discriminator_loss", "distance")]
        self.seed = keras.random.SeedGenerator()
        self.built = True
        self.compile(None)  # No optimizer besides these.

    @property
    def metrics(self):
        return self.means

    def train_step(self, real):
        with tf.GradientTape(persistent=True) as tape:
            made = draw(self.generator, tf.shape(real)[0], self.seed)
            of_real, of_made = self.discriminator(real), self.discriminator(made)
            loss, discriminator_loss = ops.softplus(-of_made), ops.softplus(-of_real) + ops.softplus(of_made)  # (B, 1)
        for network, optimizer, each, mean in (
            (self.generator, self.generator_optimizer, loss, self.means[0]),
            (self.discriminator, self.discriminator_optimizer, discriminator_loss, self.means[1]),
        ):
            optimizer.apply(tape.gradient(each, network.trainable_variables), network.trainable_variables)
            mean.update_state(each)
        return {mean.name: mean.result() for mean in self.means[:2]}

    def test_step(self, real):
        self.means[2].update_state(distance(draw(self.generator, tf.shape(real)[0], self.seed), real))
        return {"distance": self.means[2].result()}


def draw(generator, count, seed=0):
    """Images (count, 64) that the generator makes from noise."""
    return generator(keras.random.normal((count, NOISE), seed=seed))


def distance(made, real):
    """Fréchet distance of two sets of images (N, 64), each pixel taken as an independent Gaussian."""
    moments = zip((ops.mean(made, 0), ops.std(made, 0)), (ops.mean(real, 0), ops.std(real, 0)))
    return sum(ops.sum(ops.square(one - other)) for one, other in moments)


def load_data(hp, split):
    """Batches of pixels (B, 64), 1 = ink; all held-out images make one batch, since a distance is between sets."""
    images = tfds.load("mnist", split=SPLITS[split], as_supervised=True).take(hp["examples"])
    pixels = images.map(lambda image, _: tf.reshape(tf.image.resize(image, (SIDE, SIDE), "area") / 255, (-1,))).cache()
    return shuffle(pixels).batch(64) if split == "train" else pixels.batch(hp["examples"])


def train(hp, seed, callbacks=()):
    """Trains both networks from `seed` and returns them."""
    keras.utils.set_random_seed(seed)
    model, held_out = build_model(hp), load_data(hp, "validation")
    model.fit(
        load_data(hp, "train"), validation_data=held_out, epochs=hp["epochs"], callbacks=list(callbacks), shuffle=False
    )
    return {"model": model.generator, "discriminator": model.discriminator}


def evaluate(models, hp):
    """How far the generated images, and the baseline's, are from those of test."""
    real, mean_image = next(iter(load_data(hp, "test"))), ops.mean(ops.concatenate(list(load_data(hp, "train"))), 0)
    made = draw(models["model"], len(real))
    return {"distance": float(distance(made, real)), "mean_image_distance": float(distance(mean_image[None], real))}


def show(models, hp):
    """Ten generated images."""
    return {"generated": image_grid(ops.reshape(draw(models["model"], 10), (10, SIDE, SIDE)), [""] * 10)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
