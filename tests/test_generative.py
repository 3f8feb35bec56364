"""The variational autoencoder: bounds beside exact likelihoods, and the images that training sees."""

import keras
import numpy as np
import pytest
from keras import ops

from common.cookbook import settings

pytestmark = pytest.mark.parametrize("name", ["generative.vae"])


def random_vae(recipe, seed=0):
    """A model with two dimensions, whose images depend on the code far more than those of an untrained one."""
    keras.utils.set_random_seed(seed)
    model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "latent": 2}))
    for weight in model.get_layer("decoder").weights[:4]:
        weight.assign(1.5 * weight)
    return model


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


def test_the_bound_evaluated_is_the_one_that_training_maximizes(recipe):
    model = random_vae(recipe)
    images = np.random.default_rng(0).integers(0, 2, (20, 28, 28, 1)).astype("float32")
    seen = np.mean([float(ops.mean(model.losses_of(np.repeat(images, 20, axis=0))[0])) for _ in range(10)])
    assert recipe.log_weights(model, images, draws=200).mean() == pytest.approx(-seen, abs=0.3)
    bound, reconstruction, divergence = model.losses_of(images)
    np.testing.assert_allclose(bound, reconstruction + divergence, rtol=1e-5)


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


def test_a_dimension_that_equals_the_prior_costs_nothing_and_one_that_tells_something_its_divergence(recipe):
    mean, deviation = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.5]])
    found = recipe.divergence_of(mean, 2 * np.log(deviation))
    np.testing.assert_allclose(found, [0.0, 2.0 + np.log(2) - 0.5 + 0.125], rtol=1e-6)
