"""The pictures that every run or search draws."""

import numpy as np
import pytest

from common import plots


@pytest.mark.parametrize("monitor, panels", [("val_loss", ["loss"]), ("val_accuracy", ["loss", "accuracy"])])
def test_the_learning_curve_has_training_and_validation_by_epoch(monitor, panels):
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [3.5, 2.5, 2.0], "accuracy": [0.1, 0.2, 0.3]}
    picture = plots.curve(history, monitor)
    assert [ax.get_ylabel() for ax in picture.axes] == panels
    lines = {line.get_label(): list(line.get_xydata()[:, 1]) for line in picture.axes[0].lines}
    assert lines == {"training": history["loss"], "validation": history["val_loss"]}
    assert list(picture.axes[0].lines[0].get_xdata()) == [1, 2, 3]


def test_the_search_s_best_so_far_never_gets_worse_and_skips_failed_trials():
    picture = plots.search([0.5, None, 0.7, 0.6], "higher", "val_accuracy")
    best, trials = picture.axes[0].lines
    assert list(best.get_ydata()) == [0.5, 0.7, 0.7] and list(trials.get_xdata()) == [0, 2, 3]


def test_a_mosaic_has_its_images_row_by_row_and_white_where_there_is_none():
    images = np.arange(1, 6)[:, None, None, None] * np.ones((5, 2, 4, 1)) / 10
    picture = plots.mosaic(images, columns=3, heading="five")
    (ax,) = picture.axes
    expected = np.repeat(np.repeat([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]], 2, axis=0), 4, axis=1)
    np.testing.assert_allclose(ax.images[0].get_array(), expected)
    assert ax.get_title() == "five" and ax.images[0].get_clim() == (0, 1)


def test_accuracy_by_labels_has_all_subsets_as_points_and_a_line_through_their_means():
    picture = plots.by_labels([100, 100, 1_000], {"bag": [0.5, 0.7, 0.9]}, ["black"])
    line, points = picture.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[100, 60], [1_000, 90]])
    np.testing.assert_allclose(points.get_xydata(), [[100, 50], [100, 70], [1_000, 90]])
    assert [tick.get_text() for tick in picture.axes[0].get_xticklabels()] == ["100", "1,000"]
