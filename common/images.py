"""Images: a user's file as training data, an image as text, predictions for mirror images, a classical classifier."""

import keras
import numpy as np
from keras import ops
from skimage.feature import hog
from sklearn import decomposition, pipeline, preprocessing, svm


def load_object(path, length):
    """The object in an image file, as MNIST and Fashion-MNIST have it: (28, 28, 1), 0 = background, 255 at most.

    It is cut out, its longer side scaled to `length` pixels, and its centre of mass put as near to the middle as fits
    (as in MNIST; Fashion-MNIST centres the outline).

    Raises:
        ValueError: the file is not an image, or shows nothing.
    """
    try:
        grey = keras.utils.img_to_array(keras.utils.load_img(path, color_mode="grayscale"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    strength = np.abs(grey - np.median(border))  # Dark on light or light on dark; paper need not be white.
    if strength.max() < 32:
        raise ValueError(f"{path} shows nothing: the whole image has the same brightness")
    rows, columns, _ = np.nonzero(strength > strength.max() / 4)
    strength = strength[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] * (255 / strength.max())
    size = [max(1, round(length * side / max(strength.shape))) for side in strength.shape[:2]]
    small = ops.convert_to_numpy(ops.image.resize(strength, size, antialias=True)).clip(0, 255)
    centres = (np.average(np.arange(side), weights=small.sum(axis=(1 - axis, 2))) for axis, side in enumerate(size))
    top, left = (int(np.clip(round(13.5 - centre), 0, 28 - side)) for centre, side in zip(centres, size))
    return np.pad(small, [(top, 28 - size[0] - top), (left, 28 - size[1] - left), (0, 0)]).round().astype("uint8")


def in_characters(image):
    """A grey image (height, width, 1), from 0 = paper to 1 = ink, as text of half the height."""
    pairs = np.reshape(image, (len(image) // 2, 2, -1)).mean(axis=1)
    shades = np.array([*" .:-=+*#%@"])[np.round(9 * pairs).astype(int)]
    return "\n".join("".join(row).rstrip() for row in shades)


def load_photo(path, side):
    """The largest square in the middle of an image file, scaled to `side` pixels: (side, side, 3), uint8.

    Raises:
        ValueError: the file is not an image, or has the same colour everywhere.
    """
    try:
        photo = keras.utils.img_to_array(keras.utils.load_img(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if np.ptp(photo, axis=(0, 1)).max() < 32:
        raise ValueError(f"{path} shows nothing: the whole image has the same colour")
    small = ops.image.resize(photo, (side, side), antialias=True, crop_to_aspect_ratio=True)
    return ops.convert_to_numpy(small).clip(0, 255).round().astype("uint8")


def classify_mirrored(model, images):
    """The most probable classes (N,) of images (N, H, W, C), and their probabilities (N,).

    Each probability is the mean over the image and its mirror image, on which a network makes different mistakes.
    """
    views = [model.predict(each, verbose=0) for each in (images, images[:, :, ::-1])]
    probabilities = np.mean([ops.convert_to_numpy(ops.softmax(logits)) for logits in views], axis=0)
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def hog_classifier(images, labels):
    """A support vector machine, fitted to the oriented gradients of images (N, H, W, 1) and their labels (N,).

    It has 160 principal components and a penalty of 3, the best on validation images of Fashion-MNIST.
    """
    components = decomposition.PCA(min(160, len(images)), svd_solver="covariance_eigh")
    steps = preprocessing.FunctionTransformer(oriented_gradients), components, svm.SVC(C=3, cache_size=1_000)
    return pipeline.make_pipeline(*steps).fit(images, labels)


def oriented_gradients(images):
    """Histograms of oriented gradients of grayscale images (N, H, W, 1), in cells of 4 x 4 pixels: (N, features).

    Dalal and Triggs, 2005, https://doi.org/10.1109/CVPR.2005.177, with eight orientations, and blocks of 2 x 2 cells.
    """
    options = {"orientations": 8, "pixels_per_cell": (4, 4), "cells_per_block": (2, 2)}
    return np.array([hog(image[..., 0], **options) for image in images], "float32")
