"""TFDS builder of captioned images, composed of MNIST digits."""

import numpy as np
import tensorflow_datasets as tfds

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE, CELL, DIGIT = 64, 16, 14  # Side lengths in pixels: of an image, of a digit's cell, of a digit.
MOST = SIDE // CELL  # The most digits in an image or in a row, and the most rows.
# A pair of digits (a, b) is withheld from training where (b - a) modulo 10 is this.
WITHHELD = {"left of": 3, "above": 7}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Two to four digits in rows; the caption names them in reading order, so that only one is right."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # The number of images, the MNIST digits used, and whether every image has a withheld pair or none has.
    SPLITS = {
        "train": (25_000, "train[:54000]", False),
        "validation": (2_000, "train[54000:]", False),
        "validation_unseen": (2_000, "train[54000:]", True),
        "test": (2_000, "test", False),
        "test_unseen": (2_000, "test", True),
    }

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(SIDE, SIDE, 1)), "caption": tfds.features.Text()}
            ),
            supervised_keys=("image", "caption"),
            homepage="https://www.tensorflow.org/datasets/catalog/mnist",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(seed, pictures, digits, unseen)
            for seed, (split, (pictures, digits, unseen)) in enumerate(self.SPLITS.items())
        }

    def _generate_examples(self, seed, pictures, digits, unseen):
        generator = np.random.default_rng(seed)
        mnist = tfds.as_numpy(tfds.load("mnist", split=digits, batch_size=-1))
        handwriting, labels = shrink(mnist["image"][..., 0]), mnist["label"]
        chosen, breaks, counts = draw_scenes(generator, labels, pictures, unseen)
        images = paint(generator, handwriting[chosen], breaks, counts)
        for index, count in enumerate(counts):
            caption = describe(labels[chosen[index, :count]], breaks[index, : count - 1])
            yield index, {"image": images[index, ..., None], "caption": caption}


def shrink(digits):
    """Halves the side length of digits (N, 28, 28): (N, 14, 14), uint8."""
    return digits.reshape(-1, DIGIT, 2, DIGIT, 2).mean(axis=(2, 4), dtype="float32").round().astype("uint8")


def draw_scenes(generator, labels, pictures, unseen):
    """Draws the digits of each scene at random, their number, and where new rows begin.

    labels: (digits,), the digit that each MNIST image shows.
    unseen: whether every scene has a withheld pair, or none has.

    Returns:
        Indices into `labels` (pictures, 4), whether a new row begins after a digit (pictures, 3), and how many of the
        digits are used (pictures,), 2 to 4.
    """
    counts = generator.integers(2, MOST, pictures, endpoint=True)
    chosen = np.zeros((pictures, MOST), int)
    breaks = np.zeros((pictures, MOST - 1), bool)
    drawn = np.arange(pictures)
    while len(drawn):  # Scenes of the wrong kind are drawn again, with the same number of digits.
        chosen[drawn] = generator.integers(len(labels), size=(len(drawn), MOST))
        breaks[drawn] = generator.random((len(drawn), MOST - 1)) < 0.5
        digits = labels[chosen[drawn]]
        withheld = (digits[:, 1:] - digits[:, :-1]) % 10 == np.where(
            breaks[drawn], WITHHELD["above"], WITHHELD["left of"]
        )
        withheld &= np.arange(1, MOST) < counts[drawn, None]
        drawn = drawn[withheld.any(axis=1) != unseen]
    return chosen, breaks, counts


def paint(generator, digits, breaks, counts):
    """Places digits (N, 4, 14, 14) on black images: (N, 64, 64), uint8."""
    pictures = len(digits)
    spaces = np.arange(MOST)
    rows = np.pad(np.cumsum(breaks, axis=1), ((0, 0), (1, 0)))  # (N, 4), each digit's row, from 0.
    real = spaces < counts[:, None]
    in_row = (rows[:, :, None] == spaces) & real[:, :, None]  # (N, digit, row)
    lengths = in_row.sum(axis=1)  # (N, row)
    columns = np.take_along_axis(np.cumsum(in_row, axis=1), rows[:, :, None], axis=2)[:, :, 0] - 1  # (N, digit)

    def scatter(occupied):
        """Random, ascending gaps (..., 4), in pixels, before each of the first `occupied` (...) places of a line."""
        occupied = occupied[..., None]
        gaps = generator.integers(0, SIDE - CELL * occupied, size=(*occupied.shape[:-1], MOST), endpoint=True)
        return np.sort(np.where(spaces < occupied, gaps, SIDE), axis=-1)

    last_rows = np.where(real, rows, 0).max(axis=1)
    gaps_above = np.take_along_axis(scatter(last_rows + 1), rows, axis=1)
    gaps_before = scatter(lengths)[np.arange(pictures)[:, None], rows, columns]
    jitter = generator.integers(0, CELL - DIGIT + 1, size=(2, pictures, MOST))
    tops = CELL * rows + gaps_above + jitter[0]
    lefts = CELL * columns + gaps_before + jitter[1]
    images = np.zeros((pictures, SIDE, SIDE), "uint8")
    pixels = np.arange(DIGIT)
    for place in spaces:
        painted = np.flatnonzero(real[:, place])
        vertical = tops[painted, place, None, None] + pixels[:, None]
        horizontal = lefts[painted, place, None, None] + pixels
        images[painted[:, None, None], vertical, horizontal] = digits[painted, place]
    return images


def describe(labels, breaks):
    """The caption of digits (n,) in reading order; breaks (n - 1,): whether a new row begins after each."""
    words = []
    for label, relation in zip(labels, [*np.where(breaks, "above", "left of"), ""]):
        words += ["an" if NAMES[label] == "eight" else "a", NAMES[label], relation]
    return " ".join(words).strip()
