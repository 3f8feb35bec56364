"""The yardstick of generated digits, on features whose distances are known."""

import keras
import numpy as np
import pytest

from common import samples


def gaussian(count, mean, sd, seed=0):
    return mean + sd * np.random.default_rng(seed).standard_normal((count, 3))


def test_the_frechet_distance_of_gaussians_is_that_of_their_moments():
    # For covariances that commute, it is the squared distance of the means plus that of the standard deviations.
    expected = 3 * (2.0**2 + (3.0 - 1.0) ** 2)
    features, others = gaussian(200_000, 0.0, 1.0), gaussian(200_000, 2.0, 3.0, seed=1)
    assert samples.frechet_distance(features, others) == pytest.approx(expected, rel=0.02)
    assert samples.frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)


def test_precision_falls_with_samples_off_the_data_and_coverage_with_data_that_have_no_samples():
    near, far = gaussian(500, 0.0, 1.0), gaussian(500, 100.0, 1.0, seed=1)
    both = np.concatenate([near, far])
    assert samples.precision_and_coverage(both, near) == (pytest.approx(0.5), 1.0)
    assert samples.precision_and_coverage(near, both) == (1.0, pytest.approx(0.5))
    # Equal distributions: every sample has real images around it.
    precision, coverage = samples.precision_and_coverage(gaussian(1_500, 0.0, 1.0, seed=2), gaussian(1_500, 0.0, 1.0))
    assert precision > 0.95 and coverage > 0.95


def test_binary_images_have_the_intensities_as_their_mean():
    images = np.repeat(np.array([0.0, 0.25, 1.0])[None], 20_000, axis=0)
    binary = samples.binarize(images)
    assert set(np.unique(binary)) == {0.0, 1.0}
    assert binary.mean(axis=0) == pytest.approx([0.0, 0.25, 1.0], abs=0.01)
    assert (samples.binarize(images) == binary).all() and (samples.binarize(images, seed=1) != binary).any()


def test_the_rarest_digit_is_that_of_the_samples_and_the_figures_compare_them_with_real_images(monkeypatch):
    digits = np.array([0] * 5 + list(range(10)) * 2)

    def features_of(images):
        return gaussian(len(images), images.mean(), 1.0), digits[: len(images)]

    monkeypatch.setattr(samples, "features_of", features_of)
    figures = samples.yardstick(np.zeros((25, 28, 28, 1)), np.ones((20, 28, 28, 1)))
    assert figures["rarest_digit"] == pytest.approx(2 / 25)
    assert figures["distance"] == pytest.approx(3.0, rel=0.5)
    assert samples.yardstick(np.zeros((9, 28, 28, 1)), np.zeros((20, 28, 28, 1)))["rarest_digit"] == 0.0


def test_the_feature_extractor_reads_digits():
    """An upright stroke is a one, a ring is a zero."""
    rows, columns = np.mgrid[:28, :28]
    stroke = (abs(columns - 14) < 2) & (abs(rows - 14) < 10)
    ring = abs(np.hypot(rows - 13.5, columns - 13.5) - 7) < 1.5
    features, digits = samples.features_of(np.stack([stroke, ring])[..., None].astype("float32"))
    assert list(digits) == [1, 0] and features.shape == (2, 84)


def test_regression_on_earlier_pixels_sees_no_later_ones_and_learns_what_they_say():
    # The second pixel repeats the first; the third is a coin of its own: one bit each for the first and the third.
    coins = np.random.default_rng(0).integers(0, 2, (2_000, 2)).astype("float32")
    images = np.stack([coins[:, 0], coins[:, 0], coins[:, 1]], axis=1)
    keras.utils.set_random_seed(0)
    nats = samples.regression_nats(images, images[:200], epochs=40, batch_size=50)
    assert nats.shape == (200,) and nats.mean() == pytest.approx(2 * np.log(2), abs=0.03)


def test_a_mixture_s_samples_have_the_means_and_covariances_of_the_clusters_and_each_as_often_as_in_training():
    rng = np.random.default_rng(0)
    centre, slope = np.full((2, 2, 1), 0.25), np.array([0.02, 0.04, 0.0, -0.04]).reshape(2, 2, 1)
    images = centre + rng.standard_normal((400, 1, 1, 1)) * slope
    images[:100] += 0.5
    drawn = samples.mixture_samples(images.astype("float32"), 4_000, parts=2, contrast=1)
    high = drawn.mean(axis=(1, 2, 3)) > 0.5
    assert drawn.shape == (4_000, 2, 2, 1) and high.mean() == pytest.approx(0.25, abs=0.03)
    for part, known in ((drawn[high], images[:100]), (drawn[~high], images[100:])):
        found, expected = part.reshape(-1, 4), known.reshape(-1, 4)
        assert found.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
        assert np.cov(found, rowvar=False) == pytest.approx(np.cov(expected, rowvar=False), rel=0.15, abs=1e-4)
    sharp = samples.mixture_samples(images.astype("float32"), 4_000, parts=2, contrast=3)
    np.testing.assert_allclose(sharp, (3 * drawn - 1).clip(0, 1), atol=1e-5)
    assert (np.diff(high.astype(int)) != 0).sum() > 1_000  # Clusters do not follow one another.
