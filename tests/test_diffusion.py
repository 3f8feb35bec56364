"""The noise of `generative.diffusion`, its loss, one step of sampling, guidance, and how samples are measured."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

pytestmark = pytest.mark.parametrize("name", ["generative.diffusion"])
IMAGE = np.random.default_rng(0).uniform(-1, 1, (28, 28, 1)).astype("float32")


def knowing(noisy, angles):
    """The velocities (B, 28, 28, 1) that a network predicts which knows that every image is `IMAGE`."""
    angles = tf.reshape(angles, (-1, 1, 1, 1))
    return (tf.cos(angles) * noisy - IMAGE) / tf.sin(angles)


def test_schedules_lead_from_the_image_to_noise_as_in_their_papers(recipe):
    linear, cosine = (np.cos(recipe.angles_of(schedule).astype("float64")) ** 2 for schedule in ("linear", "cosine"))
    assert linear[:3] == pytest.approx([1, 1 - 1e-4, (1 - 1e-4) * (1 - 1e-4 - (0.02 - 1e-4) / 999)], abs=1e-6)
    assert linear[-1] == pytest.approx(4.0e-5, rel=0.02)  # As Ho et al. have it, nearly nothing.
    assert cosine[500] == pytest.approx(np.cos(0.508 / 1.008 * np.pi / 2) ** 2, abs=1e-3)
    for left in (linear, cosine):
        assert left.shape == (1001,) and left[0] == 1 and (np.diff(left) < 0).all() and left[-1] < 1e-4


def test_a_network_that_knows_the_image_has_no_loss_and_is_told_the_digits_that_are_not_left_out(recipe):
    told = []

    def network(inputs):
        noisy, digits, angles = inputs
        told.append(ops.convert_to_numpy(digits))
        return knowing(noisy, angles)

    images = np.repeat((IMAGE[None] + 1) * 127.5, 400, axis=0)
    digits = np.arange(400) % 10
    model = recipe.Diffusion(network, "cosine", untold=0.25)
    for training in (False, True):
        model.call((images, digits), training=training)
        assert float(model.losses[-1]) == pytest.approx(0, abs=1e-3)
    assert (told[0] == digits).all() and set(told[1][told[1] != digits]) == {recipe.ANY}
    assert np.mean(told[1] == recipe.ANY) == pytest.approx(0.25, abs=0.07)
    model.network = lambda inputs: knowing(inputs[0], inputs[2]) + 2.0
    model.call((images, digits))
    assert float(model.losses[-1]) == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_leaves_the_image_and_as_much_noise_as_its_angle_says(recipe, eta):
    noise = np.random.default_rng(1).standard_normal((50, 28, 28, 1)).astype("float32")
    now, later = np.float32(1.2), np.float32(0.5)
    noisy, digits = np.cos(now) * IMAGE + np.sin(now) * noise, tf.zeros(50, "int32")

    def network(inputs):
        return knowing(inputs[0], inputs[2])

    left = (recipe.less_noisy(network, noisy, digits, now, later, eta=eta, seed=0) - np.cos(later) * IMAGE).numpy()
    if eta == 0:
        np.testing.assert_allclose(left, np.sin(later) * noise, atol=1e-4)
    assert left.std() == pytest.approx(np.sin(later), rel=0.02)
    # Of the noise, a step of DDPM keeps as much as there is in the mean of the posterior (Ho et al., equation 7).
    share = np.tan(later) / np.tan(now) if eta else 1.0
    assert np.mean(left * noise) == pytest.approx(np.sin(later) * share, abs=0.02)
    end = recipe.less_noisy(network, noisy, digits, now, np.float32(0), eta=eta, seed=0)
    np.testing.assert_allclose(end, np.repeat(IMAGE[None], 50, axis=0), atol=1e-5)


def test_guidance_drives_predictions_away_from_those_for_any_digit(recipe):
    def network(inputs):
        noisy, digits, _ = inputs
        return tf.zeros_like(noisy) + tf.cast(digits, "float32")[:, None, None, None] / 100

    noisy, digits = tf.zeros((2, 28, 28, 1)), tf.constant([3, 7])
    now = np.float32(np.pi / 4)
    for guidance, expected in ((0.0, [0.03, 0.07]), (2.0, [0.03 - 2 * 0.07, 0.07 - 2 * 0.03])):
        image = recipe.less_noisy(network, noisy, digits, now, np.float32(0), guidance=guidance)
        np.testing.assert_allclose(image[:, 0, 0, 0], -np.sin(now) * np.array(expected), rtol=1e-5)


def test_every_digit_is_drawn_by_all_the_steps_from_the_same_noise(recipe, tiny_run):
    seen = []

    def network(inputs):
        _, digits, angles = inputs
        tf.py_function(lambda *both: seen.append([each.numpy() for each in both]), [digits, angles], [])
        return knowing(inputs[0], angles)

    images = recipe.generate(network, (3, 1, 4), steps=4, guidance=0.0)
    expected = (1.1 * (IMAGE[None] + 1) / 2 - 0.05).clip(0, 1)
    np.testing.assert_allclose(images, np.repeat(expected, 3, axis=0), atol=1e-4)
    assert [digits.tolist() for digits, _ in seen] == [[3, 1, 4]] * 4
    np.testing.assert_allclose([angles[0] for _, angles in seen], recipe.angles_of("cosine")[[1000, 750, 500, 250]])
    first, again = (recipe.generate.__wrapped__(tiny_run.model, (5, 6), steps=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_the_distance_is_that_from_the_test_images_whatever_is_generated(recipe, tiny_run, monkeypatch):
    images = recipe.read(tiny_run.hp, "test")[0] / 255

    def generate(network, digits, *how, **more):
        return np.resize(images, (len(digits), 28, 28, 1))

    monkeypatch.setattr(recipe, "generate", generate)
    metrics = recipe.evaluate(tiny_run.model, tiny_run.hp)
    assert metrics["distance"] == pytest.approx(0, abs=1e-3) and metrics["coverage"] == 1
    assert metrics["guidance-3-distance"] < metrics["DDPM-5-distance"] < metrics["few_training_distance"]
    assert metrics["few_training_sd"] > 0
    assert metrics["mixture_distance"] == tiny_run.results["metrics"]["mixture_distance"] > 1
    digits = recipe.features_of(np.resize(images, (4 * tiny_run.hp["few"], 28, 28, 1)))[1]
    assert metrics["guidance-0-accuracy"] == np.mean(digits == np.arange(len(digits)) % 10)
