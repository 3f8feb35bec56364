"""How good are generated digits? One yardstick for every generative model of MNIST, and baselines for likelihoods.

Images are (N, 28, 28, 1), from 0 = paper to 1 = ink. All are binarized at random before they are compared, so that
models of binary and of grey images are measured alike.
"""

import functools
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from sklearn import cluster


def binarize(images, seed=0):
    """Binary images, float32: each pixel is ink with its intensity as probability."""
    return (np.random.default_rng(seed).random(images.shape) < images).astype("float32")


@functools.cache
def feature_extractor():
    """LeNet-5 as `vision.lenet` trained it: images (B, 28, 28, 1) of 0 to 255 to features (B, 84), logits (B, 10)."""
    model = keras.models.load_model(pathlib.Path(__file__).with_name("lenet.keras"))
    return keras.Model(model.inputs[0], [model.get_layer("F6").output, model.outputs[0]])


def features_of(images):
    """The features (N, 84) that LeNet-5 computes from the binarized images, and the digits (N,) that it reads."""
    pixels = (255 * binarize(images)).astype("uint8")
    features, logits = feature_extractor().predict(pixels, batch_size=1_000, verbose=0)
    return features.astype("float64"), logits.argmax(axis=1)


def frechet_distance(features, real_features):
    """Fréchet distance of the Gaussians fitted to two sets of features (N, F), 0 for equal mean and covariance.

    Heusel et al., 2017, https://arxiv.org/abs/1706.08500, equation 6, with LeNet-5 in place of the Inception network.
    """
    mean, real_mean = features.mean(axis=0), real_features.mean(axis=0)
    covariance, real_covariance = np.cov(features, rowvar=False), np.cov(real_features, rowvar=False)
    # The trace of a root of a product is the sum of the roots of its eigenvalues, which are real and not negative.
    eigenvalues = np.linalg.eigvals(covariance @ real_covariance).real
    roots = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(np.sum((mean - real_mean) ** 2) + np.trace(covariance) + np.trace(real_covariance) - 2 * roots)


def precision_and_coverage(features, real_features, neighbours=5):
    """The share of samples that lie among real images, and the share of real images that have samples near them.

    Near a real image is what lies within the distance of its fifth nearest real neighbour. Precision: Kynkäänniemi et
    al., 2019, https://arxiv.org/abs/1904.06991, equation 1; coverage: Naeem et al., 2020,
    https://arxiv.org/abs/2002.09797, equation 4.
    """
    precise, covered = np.zeros(len(features), bool), []
    for start in range(0, len(real_features), 1_000):  # All distances at once would need more memory than a laptop has.
        rows = real_features[start : start + 1_000]
        # The nearest of a real image's neighbours is the image itself.
        radius = np.partition(squared_distances(rows, real_features), neighbours, axis=1)[:, neighbours]
        near = squared_distances(rows, features) <= radius[:, None]
        precise |= near.any(axis=0)
        covered.append(near.any(axis=1))
    return float(precise.mean()), float(np.concatenate(covered).mean())


def squared_distances(rows, others):
    """Squared Euclidean distances (N, M) of vectors (N, F) and (M, F)."""
    return (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T


def yardstick(samples, real):
    """Figures of a model's samples beside real images that it was not trained on.

    Returns {"distance": Fréchet distance, "precision", "coverage": see above, "rarest_digit": the share of samples of
    the digit that is generated least often; 0 means that a digit is missing, 0.1 is the maximum}.
    """
    (features, digits), (real_features, _) = features_of(samples), features_of(real)
    precision, coverage = precision_and_coverage(features, real_features)
    return {
        "distance": frechet_distance(features, real_features),
        "precision": precision,
        "coverage": coverage,
        "rarest_digit": float(np.bincount(digits, minlength=10).min() / len(digits)),
    }


def bounds(training, real):
    """Figures of three reference models: training images, a mixture of Gaussians and one Gaussian of the pixels.

    Returns the figures of `yardstick` as "training_distance" and so on, "mixture_distance" and so on, and
    "gaussian_distance". LeNet-5 was fitted to training images, and a model that copies them has the same distance: no
    figure here reveals memorization.
    """
    flat = training.reshape(len(training), -1)
    rng = np.random.default_rng(0)
    factor = np.linalg.cholesky(np.cov(flat, rowvar=False) + 1e-4 * np.eye(flat.shape[1]))  # Border pixels never vary.
    drawn = flat.mean(axis=0) + rng.standard_normal((len(real), flat.shape[1])) @ factor.T
    chosen = training[rng.choice(len(training), min(len(training), len(real)), replace=False)]
    references = {"training": chosen, "mixture": mixture_samples(training, len(real))}
    found = {f"{name}_{k}": v for name, images in references.items() for k, v in yardstick(images, real).items()}
    drawn, _ = features_of(drawn.clip(0, 1).reshape(-1, 28, 28, 1))
    return {**found, "gaussian_distance": frechet_distance(drawn, features_of(real)[0])}


def mixture_samples(training, count, parts=300, contrast=3):
    """Images (count, 28, 28, 1) from a mixture of Gaussians of the pixels, one for each cluster of training images.

    A baseline: k-means finds the clusters. Number of parts and contrast were chosen on validation. The more parts, the
    more its samples resemble copies of training images.
    """
    flat = training.reshape(len(training), -1)
    parts = min(parts, max(1, len(flat) // 20))
    clusters = cluster.MiniBatchKMeans(parts, batch_size=2_048, n_init=1, random_state=0).fit_predict(flat)
    rng = np.random.default_rng(0)
    chosen = rng.choice(clusters, count)
    drawn = np.empty((count, flat.shape[1]), "float32")
    for each in np.unique(chosen):
        members = flat[clusters == each]
        mean = members.mean(axis=0)
        # Centred images, weighted by Gaussian noise, add up to a Gaussian of the same covariance.
        weights = rng.standard_normal((np.sum(chosen == each), len(members)), "float32") / len(members) ** 0.5
        drawn[chosen == each] = mean + weights @ (members - mean)
    # Gaussians have more grey than digits.
    return (0.5 + contrast * (drawn - 0.5)).clip(0, 1).reshape(count, *training.shape[1:])


def regression_nats(training, images, epochs=10, batch_size=200, learning_rate=0.03):
    """Nats (N,) of images, which are binarized first, by a logistic regression of each pixel on all those before it.

    A fully visible sigmoid belief network (Frey, Hinton, Dayan: Does the Wake-sleep Algorithm Produce Good Density
    Estimators?, 1995), the simplest autoregressive model. Every epoch shuffles the training images, and so binarizes
    them differently.
    """
    flat = training.reshape(len(training), -1)
    pixels = flat.shape[1]
    before = ops.triu(ops.ones((pixels, pixels)), k=1)  # Entry (i, j) is 1 where pixel i comes before pixel j.
    inputs = keras.Input((pixels,))
    logits = keras.layers.Dense(pixels, kernel_initializer="zeros", kernel_constraint=lambda kernel: kernel * before)
    model = keras.Model(inputs, logits(inputs))
    steps = epochs * -(-len(flat) // batch_size)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), steps_per_execution=16)

    def drawn(batch):
        binary = tf.cast(tf.random.uniform(tf.shape(batch), seed=0) < batch, "float32")
        return binary, binary

    batches = tf.data.Dataset.from_tensor_slices(flat.astype("float32")).shuffle(len(flat), seed=0).batch(batch_size)
    model.fit(batches.map(drawn), epochs=epochs, shuffle=False, verbose=0)
    binary = binarize(images).reshape(len(images), -1)
    losses = keras.losses.binary_crossentropy(binary, model.predict(binary, verbose=0), from_logits=True)  # Means.
    return pixels * ops.convert_to_numpy(losses)


def histogram_bits(training, images, prior=20):
    """Bits per dimension (N,) of images (N, 28, 28, 1), uint8, by a histogram of grey levels for each context.

    A baseline for likelihoods of grey levels: a context is how dark eight earlier pixels are, in coarse steps.
    A histogram starts from `prior` pixels distributed as in the context of six of them, that one likewise from four,
    and so on down to all pixels. What is read, and `prior`, were chosen on validation.
    """
    density = np.full((1, 256), 1 / 256)
    for numbers, size in zip(contexts(training), (1, 25, 225, 2_025, 18_225)):
        counts = np.bincount(256 * numbers.ravel() + training.ravel(), minlength=256 * size).reshape(size, 256)
        coarser = np.repeat(density, size // len(density), axis=0)
        density = (counts + prior * coarser) / (counts.sum(axis=1, keepdims=True) + prior)
    return -np.log2(density[contexts(images)[-1], images[..., 0]]).mean(axis=(1, 2))


def contexts(images):
    """The numbers of a pixel's contexts of 0, 2, 4, 6 and 8 others, each (N, 28, 28), for images (N, 28, 28, 1)."""
    padded, (rows, columns) = np.pad(images[..., 0], ((0, 0), (2, 0), (2, 2))), images.shape[1:3]

    def other(up, left, edges):
        return np.digitize(padded[:, 2 - up :, 2 - left :][:, :rows, :columns], edges)

    found, fine, coarse = [np.zeros(images.shape[:3], int)], [1, 64, 192, 250], [1, 128]
    found.append(5 * other(0, 1, fine) + other(1, 0, fine))
    for first, second in (((1, 1), (1, -1)), ((0, 2), (2, 0)), ((1, -2), (2, -1))):
        found.append(9 * found[-1] + 3 * other(*first, coarse) + other(*second, coarse))
    return found
