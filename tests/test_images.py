"""Pictures from files."""

import keras
import numpy as np
import pytest

from common import images


def save(path, grey):
    keras.utils.save_img(path, np.asarray(grey, "float32")[..., None], scale=False)
    return path


@pytest.mark.parametrize("paper, ink", [(255, 0), (230, 60), (0, 255)])
def test_an_object_is_cut_out_scaled_and_centred_dark_on_light_or_light_on_dark(tmp_path, paper, ink):
    grey = np.full((90, 120), paper)
    grey[10:50, 70:80] = ink  # A bar, 40 pixels high and 10 wide.
    found = images.load_object(save(tmp_path / "bar.png", grey), length=20)
    assert found.shape == (28, 28, 1) and found.dtype == "uint8"
    expected = np.zeros((28, 28))
    expected[4:24, 11:16] = 255
    assert np.abs(found[..., 0] - expected).max() <= 1 or np.abs(found[..., 0] - np.roll(expected, 1, 1)).max() <= 1


def test_an_object_that_fills_the_picture_stays_whole(tmp_path):
    grey = np.zeros((56, 56))
    grey[1:-1, 4:-4] = 200
    found = images.load_object(save(tmp_path / "shirt.png", grey), length=28)
    assert np.count_nonzero(found) >= 28 * 24 and found.max() == 255


def test_what_is_no_picture_or_shows_nothing_is_refused_in_a_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    save(tmp_path / "empty.png", np.full((30, 30), 200))
    for name, complaint in (("text.png", "cannot be read"), ("empty.png", "shows nothing"), ("none.png", "cannot be")):
        with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*{complaint}[^\n]*$"):
            images.load_object(tmp_path / name, length=20)
        with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*{complaint}[^\n]*$"):
            images.load_photo(tmp_path / name, side=32)


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (64, 64), (20, 16)])
def test_of_a_photo_the_square_in_the_middle_is_kept_and_scaled(tmp_path, shape):
    photo = np.full((*shape, 3), (0, 250, 0), "float32")  # Green is what must be cut off.
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = photo[top : top + side, left : left + side]
    square[:] = 0
    square[:, : side // 2] = (250, 100, 0)  # The left half is orange, the right black.
    keras.utils.save_img(tmp_path / "halves.png", photo, scale=False)
    found = images.load_photo(tmp_path / "halves.png", side=32)
    assert found.shape == (32, 32, 3) and found.dtype == "uint8"
    assert np.abs(found[:, :14] - np.array([250.0, 100.0, 0.0])).max() <= 3 and found[:, 18:].max() <= 3


def test_oriented_gradients_ignore_brightness_and_contrast_but_not_direction():
    vertical = np.tile(100.0 * (np.arange(28) % 8 < 4), (28, 1))[..., None]
    found = images.oriented_gradients(np.stack([vertical, vertical.transpose(1, 0, 2), 2 * vertical + 20]))
    assert found.shape == (3, 6 * 6 * 4 * 8)  # Blocks of 2 x 2 cells at 6 x 6 places, with eight orientations each.
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_an_image_in_characters_has_half_as_many_lines_and_darker_ones_for_more_ink():
    image = np.array([[0, 0, 1, 0], [0, 0.9, 1, 0], [1, 0.4, 0, 0], [1, 0.5, 0, 0]], "float32")[..., None]
    assert images.in_characters(image) == " =@\n@="


class Leftist:
    """A network that sees class 1 in images whose left half is bright, and class 0 in all others."""

    def predict(self, images, verbose):
        return np.where(images[:, :, :14].mean(axis=(1, 2)) > 200, [[0.0, 4.0]], [[2.0, 0.0]])


def test_probabilities_are_means_over_an_image_and_its_mirror_image():
    pictures = np.zeros((2, 28, 28, 1), "uint8")
    pictures[0, :14], pictures[1, :, :14] = 250, 250  # One is bright above, the other on the left.
    classes, probabilities = images.classify_mirrored(Leftist(), pictures)
    assert classes.tolist() == [0, 1]
    seen, unseen = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(2))  # P(class 1) of the second, and of its mirror image.
    np.testing.assert_allclose(probabilities, [1 - unseen, (seen + unseen) / 2], rtol=1e-6)


def test_the_classifier_on_oriented_gradients_tells_directions_apart():
    stripes = np.zeros((60, 28, 28, 1), "uint8")
    for number, image in enumerate(stripes):
        image[number % 4 :: 4] = 100 + number  # At different places, with different contrast.
    both = np.concatenate([stripes, stripes.transpose(0, 2, 1, 3)])
    labels = np.repeat([0, 1], 60)
    fitted = images.hog_classifier(both[::2], labels[::2])
    assert fitted.score(both[1::2], labels[1::2]) == 1.0
