"""The generative recipes: likelihoods beside exact ones, what training sees, images that are shifted and erased."""

import keras
import numpy as np
import pytest
from keras import ops

from common.cookbook import settings

VAE = pytest.mark.parametrize("name", ["generative.vae"])
AUTOENCODER = pytest.mark.parametrize("name", ["generative.autoencoder"])


def random_vae(recipe, seed=0):
    """A model with two dimensions, whose images depend on the code far more than those of an untrained one."""
    keras.utils.set_random_seed(seed)
    model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "latent": 2}))
    for weight in model.get_layer("decoder").weights[:4]:
        weight.assign(1.5 * weight)
    return model


@VAE
def test_bounds_lie_below_the_exact_likelihood_and_the_tighter_one_close_to_it(recipe):
    model = random_vae(recipe)
    images = np.random.default_rng(0).integers(0, 2, (3, 28, 28, 1)).astype("float32")
    axis = np.linspace(-6, 6, 121)
    codes = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    logits = model.get_layer("decoder").predict(codes.astype("float32"), batch_size=5_000, verbose=0)
    log_prior = -np.sum(codes**2, axis=1) / 2 - np.log(2 * np.pi) + 2 * np.log(axis[1] - axis[0])
    exact = [ops.logsumexp(ops.convert_to_numpy(recipe.log_likelihood(each, logits)) + log_prior) for each in images]
    weights = recipe.log_weights(model, images, draws=1_000)
    np.testing.assert_allclose(recipe.importance_weighted(weights), exact, atol=0.2)
    assert (weights.mean(axis=0) < np.array(exact) - 0.2).all()


@VAE
def test_the_bound_evaluated_is_the_one_that_training_maximizes(recipe):
    model = random_vae(recipe)
    images = np.random.default_rng(0).integers(0, 2, (20, 28, 28, 1)).astype("float32")
    seen = np.mean([float(ops.mean(model.losses_of(np.repeat(images, 20, axis=0))[0])) for _ in range(10)])
    assert recipe.log_weights(model, images, draws=200).mean() == pytest.approx(-seen, abs=0.3)
    bound, reconstruction, divergence = model.losses_of(images)
    np.testing.assert_allclose(bound, reconstruction + divergence, rtol=1e-5)


@VAE
def test_every_step_binarizes_grey_images_anew_and_leaves_binary_ones_as_they_are(recipe, monkeypatch):
    seen, model = [], random_vae(recipe)
    monkeypatch.setattr(
        recipe, "log_likelihood", lambda binary, logits: seen.append(np.array(binary)) or ops.zeros(len(binary))
    )
    grey = np.tile(np.array([0.0, 0.25, 0.5, 1.0], "float32"), (50, 28, 7))[..., None]
    for images in (grey, grey, np.round(grey)):
        model.losses_of(images)
    assert set(np.unique(seen)) == {0.0, 1.0} and (seen[0] != seen[1]).any()
    np.testing.assert_allclose(seen[0].mean(axis=(0, 1))[:4, 0], [0.0, 0.25, 0.5, 1.0], atol=0.05)
    np.testing.assert_array_equal(seen[2], np.round(grey))


@VAE
def test_a_dimension_that_equals_the_prior_costs_nothing_and_one_that_tells_something_its_divergence(recipe):
    mean, deviation = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.5]])
    found = recipe.divergence_of(mean, 2 * np.log(deviation))
    np.testing.assert_allclose(found, [0.0, 2.0 + np.log(2) - 0.5 + 0.125], rtol=1e-6)


@AUTOENCODER
def test_training_shifts_images_by_whole_pixels_and_aims_at_the_shifted_ones(recipe, hp, monkeypatch):
    images = np.random.default_rng(0).random((6, 28, 28, 1)).astype("float32")
    images[:, :4] = images[:, -4:] = images[:, :, :4] = images[:, :, -4:] = 0
    model = recipe.build_model({**hp.values, "shift": 0.1}, erased=0.5)
    given = []
    monkeypatch.setattr(keras.Model, "train_step", lambda self, data: given.append([np.array(each) for each in data]))
    for _ in range(2):
        model.train_step((images, images))
    moves = set()
    for erased, shifted in given:
        assert 0.4 < np.mean(erased[shifted > 0] > 0) < 0.6 and set(np.unique(erased)) <= set(np.unique(shifted))
        for image, after in zip(images, shifted):
            steps = [(y, x) for y in range(-3, 4) for x in range(-3, 4)]
            (move,) = (step for step in steps if np.array_equal(np.roll(image, step, axis=(0, 1)), after))
            moves.add(move)
    assert len(moves) > 4 and (given[0][0] != given[1][0]).any()


@AUTOENCODER
def test_what_the_network_is_to_notice_is_left_out_everywhere_but_in_the_test(recipe, hp):
    values = {**hp.values, "novelty": True}
    for split in recipe.SPLITS:
        batches = recipe.load_data(values, split).as_numpy_iterator()
        seen = {image.tobytes() for images, _ in batches for image in images}
        images, classes = recipe.read(hp, split)
        assert (classes == recipe.NOVEL).any()
        kept = images if split == "test" else images[classes != recipe.NOVEL]
        assert seen == {image.tobytes() for image in kept}


@AUTOENCODER
def test_errors_are_summed_over_pixels_and_principal_components_come_from_training_images(recipe, hp):
    images = np.random.default_rng(0).random((40, 6, 6, 1)).astype("float32")
    expected = ((images - 0.5) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(recipe.errors(images, 0 * images + 0.5), expected, rtol=1e-5)
    # All training images are sums of two others, and lie in the plane of two components; the others do not.
    amounts = np.random.default_rng(1).random((2, 40, 1, 1, 1)).astype("float32") / 2
    training = amounts[0] * images[:1] + amounts[1] * images[1:2]
    for scale in (1, 3, -1):  # Components that add up to more than ink, or to less than paper, are clipped.
        expected = (scale * training[:5]).clip(0, 1)
        np.testing.assert_allclose(recipe.pca(hp, training, scale * training[:5]), expected, atol=1e-3)
    assert recipe.errors(images, recipe.pca(hp, training, images))[2:].min() > 1


@AUTOENCODER
def test_a_class_whose_images_are_reconstructed_worse_is_noticed(recipe, tiny_run, hp, monkeypatch):
    images, classes = recipe.read(hp, "test")
    monkeypatch.setattr(recipe, "yardstick", lambda samples, real: {})
    monkeypatch.setattr(recipe, "bounds", lambda training, real: {})
    monkeypatch.setattr(recipe, "generate", lambda model, training, count: None)
    monkeypatch.setattr(recipe, "pca", lambda hp, training, given: given)
    monkeypatch.setattr(recipe, "reconstruct", lambda model, given: np.zeros_like(given))
    darker = np.where((classes == recipe.NOVEL)[:, None, None, None], 1.0, images).astype("float32")
    monkeypatch.setattr(recipe, "read", lambda hp, split: (darker, classes))
    found = recipe.evaluate(tiny_run.trained, hp)
    assert found["novelty_auc"] == 1.0
    expected = np.mean(np.sum(darker**2, axis=(1, 2, 3)))
    assert found["squared_error"] == pytest.approx(expected)
    # What is left of the ink is known, here about half of it, and not the network's to make.
    assert found["undenoised_error"] == found["denoised_error"] == pytest.approx(hp["erased"] * expected, rel=0.1)


@AUTOENCODER
def test_clusters_with_components_of_their_own_rebuild_what_one_set_of_components_cannot(recipe, hp):
    directions = np.random.default_rng(0).random((2, 1, 28, 28, 1)).astype("float32") / 2
    amounts = np.random.default_rng(1).uniform(0.8, 1, (2, 60, 1, 1, 1)).astype("float32")
    # Two lines, through points that are far from each other.
    training = np.concatenate(amounts * directions + np.reshape([0, 0.5], (2, 1, 1, 1, 1)) * (directions < 0.25))
    assert hp["code"] == 2
    whole, parts = recipe.pca(hp, training, training), recipe.clustered_pca(hp, training, training, clusters=2)
    assert recipe.errors(training, parts).max() < 1e-3
    one = recipe.clustered_pca({"code": 2}, training, training, clusters=1)
    assert recipe.errors(training, one).mean() > 0.1 > recipe.errors(training, whole).mean()


@AUTOENCODER
def test_the_distance_to_neighbours_is_that_of_what_training_has_not_shown(recipe):
    images = np.random.default_rng(0).random((10, 28, 28, 1)).astype("float32")
    distances = recipe.distance_to_neighbours(np.repeat(images[:5], 3, axis=0), images)
    assert distances[:5].max() < 0.1 < distances[5:].min()
