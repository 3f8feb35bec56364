"""A small convolutional network distinguishes cats from dogs, and shows what each of its layers sees.

Result    accuracy 0.8698 ± 0.0065 over 3 seeds, 4.1 minutes a run (5.7 CPU minutes) on 2 cores
Baseline  a linear support vector machine on histograms of oriented gradients (HOG) in cells of 4 and of 8 pixels
Published no figure that we know of for these two classes alone; 0.87 is the recipe's own aim
Paper     none for the network. Muon, the optimizer: Jordan et al., https://kellerjordan.github.io/posts/muon/. Global
          average pooling: https://arxiv.org/abs/1312.4400. Grad-CAM: https://arxiv.org/abs/1610.02391.
Answers   What do learned filters add to hand-crafted features? 87.0% of the test images are classified correctly; with
          histograms of oriented gradients 69.6%.
          How well do a layer's feature maps tell cats from dogs? Logistic regression on their means gets 65.1% right
          for the first layer (32 maps), 77.1% for the third (64) and 87.2% for the fifth (128).
          How do valid and same padding change size and cost? The last maps are 8 pixels wide, with valid padding 1.
          That takes 9,033,344 instead of 30,769,280 multiply-adds an image; accuracy is 86.5%, not 87.0%: no difference
          beyond the spread of the seeds.
          Max pooling, average pooling, or strides? Accuracy 87.0%, 87.9% and 86.5%, no difference beyond the spread of
          the seeds; multiply-adds 30,769,280, with strides 21,848,192.
          Does global pooling help against overfitting? Accuracy is 87.0% on test and 95.4% on train; with flattened
          maps and 8,193 instead of 129 weights in the last layer, 87.7% and 95.9%: no difference beyond the spread of
          the seeds.
          What does augmentation add? Accuracy on test is 87.0% instead of 85.0%, on the training images 95.4% instead
          of 100.0%.

    python -m recipes.vision.cats_vs_dogs
    python -m recipes.vision.cats_vs_dogs --try dog.png
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from matplotlib import colormaps
from skimage.feature import hog
from sklearn import linear_model, pipeline, preprocessing, svm

from common.callbacks import OneCycle
from common.data import shuffle
from common.images import load_photo
from common.metrics import multiply_adds
from common.optimizers import Muon
from common.plots import image_grid

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "HOG and a linear classifier", "metric": "hog_accuracy"},
    "published": {"value": 0.87, "source": "the recipe's own aim; we know of no figure for these two classes alone"},
    "data": ["cifar10"],
}
TINY = {"examples": 40, "epochs": 2, "batch_size": 32, "filters": 8}
VARIANTS = {  # At the learning rate of the recipe.
    "average pooling": {"pooling": "average"},
    "strides": {"pooling": "strides"},
    "flatten": {"head": "flatten"},
    "valid padding": {"padding": "valid"},
    "without augmentation": {"flip": False, "shift": 0.0, "zoom": 0.0},
}
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}

CAT, DOG = 3, 5  # Classes of CIFAR-10.
MAPS = ("maps1", "maps2", "maps3", "maps4", "maps5")  # The layers to look at: each convolution's after its ReLU.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 32, 10_000, default=10_000)  # Cats and dogs read from each split, at most.
    hp.Int("epochs", 1, 200, default=25)
    hp.Int("batch_size", 32, 256, step=32, default=128)
    hp.Int("filters", 4, 128, step=4, default=32)  # Of the first layer; later ones have two and four times as many.
    hp.Choice("pooling", ["max", "average", "strides"], default="max")  # strides: convolutions skip every other place.
    hp.Choice("padding", ["same", "valid"], default="same")
    hp.Choice("head", ["average", "flatten"], default="average")  # average: global average pooling.
    hp.Float("dropout", 0.0, 0.7, default=0.2)  # Of the output layer's inputs.
    hp.Float("learning_rate", 1e-3, 0.1, sampling="log", default=2e-2)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-3, 1.0, sampling="log", default=0.1)  # Of the convolutions.
    hp.Float("label_smoothing", 0.0, 0.2, default=0.1)
    hp.Boolean("flip", default=True)  # Left and right, at random.
    hp.Float("shift", 0.0, 0.3, default=0.12)  # At most, as a share of the image's side.
    hp.Float("zoom", 0.0, 0.3, default=0.1)  # At most, in and out.
    return hp


def build_model(hp):
    """Five convolutions: images (B, 32, 32, 3) of 0 to 255 to the probability of a dog (B, 1)."""
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    hidden = layers.Rescaling(1 / 64, offset=-2.0)(images)  # About zero mean and unit variance.
    # The random layers act only in training; they are part of the model so that they share its seed.
    if hp["flip"]:
        hidden = layers.RandomFlip("horizontal")(hidden)
    hidden = layers.RandomTranslation(hp["shift"], hp["shift"], fill_mode="reflect")(hidden)
    hidden = layers.RandomZoom(hp["zoom"], fill_mode="reflect")(hidden)

    pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}.get(hp["pooling"])
    # Multiples of hp["filters"], and their side; the maps become half as large, or stay. To the right, maps by default.
    blocks = (
        (1, 5, True),  # (B, 32, 32, 32), pooled to (B, 16, 16, 32)
        (2, 3, False),  # (B, 16, 16, 64)
        (2, 3, True),  # (B, 16, 16, 64), pooled to (B, 8, 8, 64)
        (4, 3, False),  # (B, 8, 8, 128)
        (4, 3, False),  # (B, 8, 8, 128)
    )
    for number, (width, side, halved) in enumerate(blocks, 1):
        filters, strides = width * hp["filters"], 1 if pooling or not halved else 2
        convolution = layers.Conv2D(filters, side, strides, hp["padding"], use_bias=False, name=f"convolution{number}")
        hidden = layers.BatchNormalization(momentum=0.9, name=f"normalization{number}")(convolution(hidden))
        hidden = layers.ReLU(name=f"maps{number}")(hidden)
        if halved and pooling:
            hidden = pooling(2, name=f"pooling{number}")(hidden)
    head = {"average": layers.GlobalAveragePooling2D, "flatten": layers.Flatten}[hp["head"]]
    features = head(name="features")(hidden)  # (B, 128); flattened (B, 8192)
    logit = layers.Dense(1, name="logit")(layers.Dropout(hp["dropout"])(features))
    model = keras.Model(images, layers.Activation("sigmoid", name="dog")(logit), name="cats_vs_dogs")

    model.compile(
        optimizer=Muon(hp["learning_rate"], weight_decay=hp["weight_decay"], exclude_layers=["logit"]),
        loss=keras.losses.BinaryCrossentropy(label_smoothing=hp["label_smoothing"]),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


@functools.cache
def read(split, examples):
    """Images (N, 32, 32, 3), uint8, and whether they show a dog, (N, 1), 0 or 1."""
    # The images are decoded once the other eight classes are gone, which saves most of the time.
    coded = {"image": tfds.decode.SkipDecoding()}
    rows, info = tfds.load("cifar10", split=SPLITS[split], decoders=coded, with_info=True)
    rows = rows.filter(lambda row: (row["label"] == CAT) | (row["label"] == DOG)).take(examples)
    rows = rows.map(lambda row: (info.features["image"].decode_example(row["image"]), row["label"] == DOG))
    images, dogs = rows.batch(examples).get_single_element()
    return images.numpy(), dogs.numpy()[:, None].astype("float32")


def load_data(hp, split):
    """Batches of images (B, 32, 32, 3), uint8, and whether they show a dog, (B, 1)."""
    dataset = tf.data.Dataset.from_tensor_slices(read(split, hp["examples"]))
    dataset = shuffle(dataset) if split == "train" else dataset
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.2), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """Test accuracies of the network, of its layers and of the baseline, and the network's sizes."""
    (known, known_dogs), (images, dogs) = read("train", hp["examples"]), read("test", hp["examples"])
    mirrored = np.concatenate([known, known[:, :, ::-1]])  # For the baseline, which cannot flip images at random.
    hog_classifier = svm.LinearSVC(C=0.01).fit(describe(mirrored), np.tile(known_dogs[:, 0], 2))
    results = {
        "accuracy": model.evaluate(images, dogs, verbose=0)[1],
        "train_accuracy": model.evaluate(known, known_dogs, verbose=0)[1],
        "hog_accuracy": hog_classifier.score(describe(images), dogs[:, 0]),
        "head_parameters": model.get_layer("logit").count_params(),
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model.layers),
    }

    outputs = [model.get_layer(name).output for name in MAPS]
    means = keras.Model(model.input, [ops.mean(maps, axis=(1, 2)) for maps in outputs])
    for name, maps, seen, unseen in zip(MAPS, outputs, *(means.predict(each, verbose=0) for each in (known, images))):
        probe = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=1000))
        results[f"{name}_accuracy"] = probe.fit(seen, known_dogs[:, 0]).score(unseen, dogs[:, 0])
        results[f"{name}_side"] = maps.shape[1]
    return results


def describe(images):
    """Histograms of oriented gradients of images (N, 32, 32, 3), in cells of 4 and of 8 pixels: (N, 2088)."""
    options = {"cells_per_block": (2, 2), "channel_axis": -1}
    rows = [[hog(image, pixels_per_cell=(side, side), **options) for side in (4, 8)] for image in images]
    return np.array([np.concatenate(row) for row in rows])


def predict(model, assets, inputs):
    """Classifies pictures: each input is the path of an image file, each output "dog (0.93)" or "cat (0.88)".

    The number is the estimated probability. Only the square in the middle of a picture is used; the animal should fill
    it. Raises ValueError for a file that is not an image, or that shows nothing; there are no assets.

        model = keras.models.load_model("model.keras")
        assets = {}
        predict(model, assets, ["dog.png"])
    """
    images = np.stack([load_photo(path, side=32) for path in inputs])
    return [named(probability) for probability in model.predict(images, verbose=0)[:, 0]]


def named(probability):
    """The more probable animal and its probability; probability: that of a dog."""
    return f"dog ({probability:.2f})" if probability > 0.5 else f"cat ({1 - probability:.2f})"


def grad_cam(model, images):
    """How strongly each place of the images (N, 32, 32, 3) supports the model's answer: (N, 32, 32), from 0 to 1."""
    network = keras.Model(model.input, [model.get_layer(MAPS[-1]).output, model.get_layer("logit").output])
    with tf.GradientTape() as tape:
        maps, logits = network(images, training=False)
        answers = tf.abs(logits)  # Of a dog, the logit; of a cat, its negative.
    weights = tf.reduce_mean(tape.gradient(answers, maps), axis=(1, 2), keepdims=True)  # (N, 1, 1, 128)
    marks = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    marks = tf.image.resize(marks, (32, 32))[..., 0].numpy()
    return marks / (marks.max(axis=(1, 2), keepdims=True) + 1e-6)


def show(model, hp):
    """The first layer's filters, the maps of every layer for one dog, and where Grad-CAM sees the answer."""
    images, dogs = read("validation", hp["examples"])
    dog = images[dogs[:, 0].argmax()]
    outputs = [model.get_layer(name).output for name in MAPS]
    maps = keras.Model(model.input, outputs)(dog[None], training=False)
    filters = ops.convert_to_numpy(model.get_layer("convolution1").kernel)  # (5, 5, 3, filters)
    pictures, titles = [], []
    rows = [0.5 + filters / np.abs(filters).max() / 2, *(ops.convert_to_numpy(each)[0] for each in maps)]
    for name, row in zip(("filter", *MAPS), rows):
        pictures += [dog, *(row[..., channel] for channel in range(7))]
        titles += ["input", *(f"{name} {channel + 1}" for channel in range(7))]
    heading = "Filters of the first layer (grey = 0); maps of every layer for one dog, each on a scale of its own"
    feature_maps = image_grid(pictures, titles, columns=8, heading=heading)

    probabilities = model.predict(images, verbose=0)
    right = (probabilities > 0.5) == (dogs > 0.5)
    kinds = (right & (dogs == 0), right & (dogs == 1), ~right & (dogs == 0), ~right & (dogs == 1))
    chosen = np.concatenate([np.flatnonzero(kind)[:4] for kind in kinds])
    pictures, titles = [], []
    for index, marks in zip(chosen, grad_cam(model, images[chosen])):
        pictures += [images[index], 0.4 * images[index] / 255 + 0.6 * colormaps["inferno"](marks)[..., :3]]
        titles += [("cat", "dog")[int(dogs[index, 0])], named(probabilities[index, 0])]
    heading = (
        f"What supports the model's answer (Grad-CAM): correct answers above, some of {np.sum(~right)} mistakes below"
    )
    return {"feature_maps": feature_maps, "grad_cam": image_grid(pictures, titles, columns=8, heading=heading)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
