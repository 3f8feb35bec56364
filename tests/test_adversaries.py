"""The generator and the discriminator of `generative.gan`: losses, penalty, average, pictures, and how it is measured."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from common.cookbook import settings

pytestmark = pytest.mark.parametrize("name", ["generative.gan"])


def test_only_the_saturating_loss_leaves_the_generator_without_gradient_where_it_is_seen_through(recipe):
    of_real, of_made = np.array([[3.0], [-1.0]]), np.array([[-2.0], [0.5]])

    def probability(logits):
        return 1 / (1 + np.exp(-logits))

    expected = -np.log(probability(of_real)) - np.log(1 - probability(of_made))
    for name, loss in (
        ("saturating", np.log(1 - probability(of_made))),
        ("non-saturating", -np.log(probability(of_made))),
    ):
        found = recipe.losses_of(name, of_real, of_made)
        np.testing.assert_allclose(found, [loss, expected], rtol=1e-6)
    np.testing.assert_allclose(recipe.losses_of("wasserstein", of_real, of_made), [-of_made, of_made - of_real])


def test_the_slope_of_a_linear_discriminator_is_the_length_of_its_weights(recipe):
    images = keras.Input((28, 28, 1))
    discriminator = keras.Model(images, layers.Dense(1)(layers.Flatten()(images)))
    weights = np.zeros((784, 1), "float32")
    weights[:2] = [[3.0], [4.0]]
    discriminator.set_weights([weights, np.ones(1)])
    noise = ops.convert_to_tensor(np.random.default_rng(0).random((5, 28, 28, 1), dtype="float32"))
    assert ops.convert_to_numpy(recipe.squared_slopes(discriminator, noise)) == pytest.approx([5**2] * 5)


@pytest.mark.parametrize("loss", ["non-saturating", "wasserstein"])
def test_each_optimizer_moves_its_network_alone_and_the_average_follows_slowly(recipe, loss):
    hp = settings.build(recipe.configure, {**recipe.TINY, "loss": loss, "averaging": 0.75})
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), "uint8")
    for still in ("generator", "discriminator"):
        keras.utils.set_random_seed(0)
        model = recipe.build_model(hp)
        networks = {name: getattr(model, name) for name in ("generator", "discriminator", "averaged")}
        getattr(model, f"{still}_optimizer").learning_rate = 0.0
        before = {name: network.get_weights() for name, network in networks.items()}
        model.train_step(images)
        for name in ("generator", "discriminator"):
            weights = [ops.convert_to_numpy(each) for each in networks[name].trainable_weights]
            moved = [not any(np.array_equal(each, old) for old in before[name]) for each in weights]
            assert (not any(moved)) if name == still else all(moved[:-1]), (name, moved)
        pairs = zip(before["averaged"], networks["generator"].get_weights(), strict=True)
        for average, (old, new) in zip(networks["averaged"].get_weights(), pairs, strict=True):
            np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss, expected", [("non-saturating", 0.3 / 2 * 9), ("wasserstein", 10 * (3 - 1) ** 2)])
def test_the_discriminator_pays_for_its_slope(recipe, monkeypatch, loss, expected):
    hp = settings.build(recipe.configure, {**recipe.TINY, "loss": loss, "flatness": 0.3})
    images, losses, seen = np.full((8, 28, 28, 1), 255, "uint8"), [], []

    def slopes(discriminator, pixels, squared):
        seen.append(ops.convert_to_numpy(pixels))
        return ops.full((len(pixels),), squared)

    for squared in (9.0, 1.0 if loss == "wasserstein" else 0.0):
        keras.utils.set_random_seed(0)
        monkeypatch.setattr(recipe, "squared_slopes", lambda *given, squared=squared: slopes(*given, squared))
        losses.append(float(recipe.build_model(hp).train_step(images)["discriminator_loss"]))
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-4)
    # At real images, or between them, all ink, and generated ones, which at first are grey.
    assert seen[0].mean() == 1 if loss == "non-saturating" else 0.55 < seen[0].mean() < 0.95


def test_the_last_picture_of_the_training_is_what_the_finished_generator_makes(recipe, tiny_run):
    pages = tiny_run.models["snapshots"].predict(np.arange(tiny_run.hp["epochs"]), verbose=0)
    made = recipe.draw(tiny_run.model, tiny_run.hp["examples"])  # As many as were compared with validation.
    np.testing.assert_allclose(pages[-1], made[: pages.shape[1]], atol=1e-6)
    assert np.abs(pages[0] - pages[-1]).max() > 0 and pages[0].min() < pages[0].max()


def test_the_distance_is_that_from_the_test_images_whatever_the_generator_makes(recipe, tiny_run, monkeypatch):
    images = {split: recipe.read(tiny_run.hp, split) / 255 for split in ("train", "test")}
    features = {split: recipe.features_of(images[split])[0] for split in images}
    for split in images:
        monkeypatch.setattr(recipe, "draw", lambda generator, count: images[split])
        metrics = recipe.evaluate(tiny_run.models, tiny_run.hp)
        expected = recipe.frechet_distance(features[split], features["test"])
        for name in ("distance", "unaveraged_distance"):
            assert metrics[name] == pytest.approx(expected, abs=1e-6)
        assert (metrics["distance"] < 0.01) == (split == "test")
    assert metrics["coverage"] == 1.0 > tiny_run.results["metrics"]["coverage"]
    assert metrics["mixture_distance"] == tiny_run.results["metrics"]["mixture_distance"] > 1
