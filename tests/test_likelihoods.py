"""Whether likelihoods are those of distributions: densities agree with derivatives, probabilities sum to 1."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from common import samples
from common.cookbook import settings
from recipes.generative import normalizing_flow, pixelcnn


@pytest.fixture(scope="module", params=["quantile", "logit"])
def small_flow(request):
    """A flow of images of 8 x 8 pixels with random weights, and three such images with noise, half of each paper."""
    keras.utils.set_random_seed(0)
    hp = settings.build(normalizing_flow.configure, {**normalizing_flow.TINY, "couplings": 6, "numbers": request.param})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalizing_flow, "SIDE", 8)
        model = normalizing_flow.build_model(hp)
    for weight in model.trainable_weights:
        weight.assign(0.15 * keras.random.normal(weight.shape))
    return model, keras.random.uniform((3, 8, 8, 1)) * np.where(np.arange(8) % 2, 1, 1 / 256)[:, None].astype("float32")


def test_log_determinants_are_those_of_the_jacobian(small_flow):
    model, pixels = small_flow
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        latents, log_determinants = model.forward(pixels)
    jacobian = tape.batch_jacobian(latents, pixels).numpy().reshape(3, 64, 64)
    np.testing.assert_allclose(log_determinants, np.linalg.slogdet(jacobian)[1], rtol=1e-3)
    assert np.ptp(log_determinants) > 1
    assert (np.count_nonzero(jacobian, axis=(1, 2)) > 64 * 32).all()  # Not the identity.


def test_the_inverse_gives_back_the_pixels(small_flow):
    model, pixels = small_flow
    latents, _ = model.forward(pixels)
    assert np.abs(latents - np.reshape(pixels, (3, 64))).max() > 1
    np.testing.assert_allclose(model.inverse(latents), pixels, atol=1e-4)


def test_each_coupling_leaves_what_its_network_reads_and_all_together_change_every_value():
    hp = settings.build(normalizing_flow.configure, normalizing_flow.TINY)
    values = np.random.default_rng(0).uniform(size=(1, 2, 2, 8)).astype("float32")
    for mask in normalizing_flow.MASKS:
        layer = normalizing_flow.coupling(2, 8, mask, hp)
        layer.set_weights([np.ones_like(each) for each in layer.get_weights()])
        of_pixels = np.repeat(mask, 2) == 1
        for read, noise in ((True, values * of_pixels), (False, values * ~of_pixels)):
            different = not np.allclose(layer(values)[1], layer(values + noise)[1])
            assert different == read
        for each in layer(values):
            assert (np.abs(each).min(axis=(0, 1, 2)) > 0).tolist() == (~of_pixels).tolist()
    assert (np.sum(normalizing_flow.MASKS, axis=0) == 3).all()


def test_bits_per_dimension_are_those_of_the_density_of_grey_levels():
    grey_levels = np.random.default_rng(0).normal(100, 20, size=(2, 28 * 28))
    latents = (grey_levels / 256 - 0.4) * 16  # A Gaussian with mean 102.4 and standard deviation 16.
    bits = normalizing_flow.bits_per_dimension(latents, np.full(2, 28 * 28 * np.log(16.0)))
    expected = -stats.norm(102.4, 16).logpdf(grey_levels).mean(axis=1) / np.log(2)
    np.testing.assert_allclose(bits, expected, rtol=1e-5)


def test_the_baseline_s_probabilities_of_all_images_of_two_pixels_sum_to_one():
    rng = np.random.default_rng(0)
    training = np.concatenate([rng.integers(0, 9, size=(600, 2)), rng.integers(200, 256, size=(400, 2))])
    every = np.array(list(itertools.product(range(256), repeat=2)))
    images = [each.astype("uint8")[:, None, :, None] for each in (training, every)]  # (N, 1, 2, 1)
    probabilities = (2 ** (-2 * samples.histogram_bits(*images))).reshape(256, 256)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[:9, :9].sum() > 0.5 and probabilities[200:, 200:].sum() > 0.3
    # Both pixels are dark or both are light: a histogram that does not know the left one could not say so.
    assert probabilities[:9, 200:].sum() < 0.05


def test_the_baseline_s_contexts_are_of_earlier_pixels_alone():
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1)).astype("uint8")
    changed = images.copy()
    changed[:, 20, 5:] = changed[:, 21:] = 0
    contexts = samples.contexts(images)
    assert [each.max() for each in contexts[:4]] == [0, 24, 224, 2_024] and contexts[4].max() < 18_225
    assert all((finer // 9 == each).all() for each, finer in zip(contexts[1:], contexts[2:]))
    for before, after in zip(contexts[1:], samples.contexts(changed)[1:]):
        assert (before[:, :20] == after[:, :20]).all() and (before[:, 20, :6] == after[:, 20, :6]).all()
        assert (before[:, 20, 6:] != after[:, 20, 6:]).any()


@pytest.mark.parametrize("name", ["generative.normalizing_flow"])
def test_the_flow_s_figure_is_the_mean_over_test_and_its_loss_is_the_same_figure(recipe, tiny_run, hp):
    images = np.concatenate(list(recipe.load_data(hp, "test").as_numpy_iterator()))
    pixels = recipe.with_noise(images)
    assert (
        len(images) == hp["examples"] and np.mean(np.floor(256 * pixels) == images) > 0.999
    )  # 255 + noise can round to 256.
    bits = []
    for each in pixels:
        (latents,), (log_determinant,) = map(np.asarray, tiny_run.model(each[None]))
        bits.append(-(stats.norm.logpdf(latents).sum() + log_determinant) / np.log(2) / latents.size + 8)
    assert tiny_run.results["metrics"]["bits_per_dimension"] == pytest.approx(np.mean(bits), rel=1e-4)
    likelihood = recipe.Likelihood(tiny_run.model, tiny_run.models["inverse"])
    likelihood.compile()
    found = likelihood.evaluate(images, batch_size=70, verbose=0)
    assert found == pytest.approx(np.mean(bits), rel=1e-2)


@pytest.mark.parametrize("name", ["generative.normalizing_flow"])
def test_samples_that_are_less_noisy_are_more_alike(recipe, tiny_run):
    spread = [recipe.sample(tiny_run.models["inverse"], 50, each).std(axis=0).mean() for each in (0.0, 0.5, 1.0)]
    assert spread[0] == pytest.approx(0, abs=1e-6) and spread[1] < spread[2]


@pytest.fixture(scope="module")
def small_pixelcnn():
    """A network of random weights, whose logits depend strongly on what it sees."""
    keras.utils.set_random_seed(0)
    network = pixelcnn.build_model(settings.build(pixelcnn.configure, {**pixelcnn.TINY, "layers": 2})).network
    for weight in network.trainable_weights:
        weight.assign(keras.random.normal(weight.shape))
    return network


def test_a_pixel_is_predicted_from_all_those_shortly_before_it_and_from_no_other(small_pixelcnn):
    images = keras.random.uniform((1, 28, 28, 1))
    row, column = 14, 12
    with tf.GradientTape() as tape:
        tape.watch(images)
        logit = small_pixelcnn(images)[0, row, column, 0]
    seen = tape.gradient(logit, images).numpy()[0, ..., 0] != 0
    before = np.arange(28 * 28).reshape(28, 28) < 28 * row + column
    assert not (seen & ~before).any()
    # Two layers see four columns to each side, five to the left, and four rows above; nothing of it is a blind spot.
    assert seen[row - 4 : row, column - 4 : column + 5].all() and seen[row, column - 5 : column].all()


def test_a_changed_pixel_changes_no_logit_before_it_or_at_it(small_pixelcnn):
    images = np.random.default_rng(0).integers(0, 2, size=(1, 28, 28, 1)).astype("float32")
    expected = np.ravel(small_pixelcnn(images))
    for place in (0, 27, 28, 400, 783):
        changed = images.copy().reshape(-1)
        changed[place] = 1 - changed[place]
        found = np.ravel(small_pixelcnn(changed.reshape(images.shape)))
        np.testing.assert_array_equal(found[: place + 1], expected[: place + 1])
        assert place == 783 or (found[place + 1 :] != expected[place + 1 :]).any()


def test_samples_pixel_by_pixel_are_those_of_the_whole_network_and_known_rows_stay(small_pixelcnn):
    images = np.random.default_rng(1).integers(0, 2, size=(3, 28, 28, 1)).astype("float32")
    noise = np.random.default_rng(0).random(images.shape, dtype="float32")
    drawn = pixelcnn.sample(small_pixelcnn, images, known_rows=10)
    probabilities = keras.ops.sigmoid(small_pixelcnn(drawn))
    np.testing.assert_array_equal(drawn[:, :10], images[:, :10])
    np.testing.assert_array_equal(drawn[:, 10:], (noise < probabilities)[:, 10:])
    assert 0.1 < drawn[:, 10:].mean() < 0.9 and np.std(probabilities) > 0.1


def test_nats_are_minus_the_logarithm_of_the_pixels_probabilities():
    rng = np.random.default_rng(0)
    logits, binary = rng.normal(size=(2, 3, 3, 1)), rng.integers(0, 2, size=(2, 3, 3, 1)).astype("float32")
    expected = -stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(binary).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(pixelcnn.nats_of(logits, binary), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["generative.pixelcnn"])
def test_the_pixelcnn_s_figure_is_that_of_binarized_test_images(recipe, tiny_run, hp):
    batches = list(recipe.load_data(hp, "test"))
    assert sum(map(len, batches)) == hp["examples"] and set(np.unique(batches[0])) == {0.0, 1.0}
    nats = np.concatenate([recipe.nats_of(tiny_run.model(each), each) for each in batches])
    assert tiny_run.results["metrics"]["nats"] == pytest.approx(nats.mean(), rel=1e-4)
    # Training binarizes anew in every step.
    likelihood = recipe.Likelihood(tiny_run.model)
    grey = recipe.read(hp, "train")[:20]
    assert not np.allclose(likelihood(grey), likelihood(grey))
    np.testing.assert_allclose(likelihood(batches[0]), likelihood(batches[0]))


@pytest.mark.parametrize("name", ["generative.pixelcnn"])
def test_a_lower_half_is_copied_from_the_training_digit_with_the_most_similar_upper_half(
    recipe, tiny_run, hp, monkeypatch
):
    binary = recipe.binarize(recipe.read(hp, "test"))
    monkeypatch.setattr(recipe, "read", lambda hp, split: binary if split == "test" else binary[::-1])
    monkeypatch.setattr(recipe, "sample", lambda model, images, **_: 0 * images)
    for name in ("bounds", "yardstick"):
        monkeypatch.setattr(recipe, name, lambda *_: {})
    monkeypatch.setattr(recipe, "regression_nats", lambda *_: 0.0)
    found = recipe.evaluate(tiny_run.model, hp)
    assert found["copied_alike"] == 1.0 > found["completed_alike"]
