"""A GRU attends to a picture of handwritten digits and describes in words which digit is where.

Result    exact match 0.9565 with one seed, 11.2 minutes a run (9.6 of CPU) on 1 core
Baseline  the caption of the nearest training picture
Published 0.95 exact match: the recipe's own aim, since no figure is published for synthetic data
Paper     Xu et al., Show, Attend and Tell: Neural Image Caption Generation with Visual Attention, 2015,
          https://arxiv.org/abs/1502.03044, soft attention; here a GRU for the LSTM, an encoder trained from scratch,
          a learned bias for the place of each cell, and no gate on the context nor doubly stochastic attention.
Answers   Can it caption pairs of digits that training never showed in that relation? What does attention add to one
          vector for the whole picture? What does each word attend to? Do longer captions fail more often?

    python -m recipes.recurrent.captioning
    python -m recipes.recurrent.captioning --set units=256 --seed 1
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from matplotlib.colors import to_rgb
from sklearn.neighbors import NearestNeighbors

from common.callbacks import OneCycle
from common.data import shuffle
from common.datasets import mnist_scenes
from common.decoding import greedy
from common.plots import VALIDATION, image_grid
from common.text import shift_right

PROMISE = {
    "figure": {"metric": "exact_match", "better": "higher"},
    "monitor": {"metric": "val_token_accuracy", "better": "higher"},
    "baseline": {"metric": "nearest_exact_match", "name": "caption of the nearest training picture"},
    "published": {"value": 0.95, "source": "the recipe's own aim"},
    "data": ["mnist", "mnist_scenes"],  # The scenes are composed of mnist digits.
    "tolerance": 0.02,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 70, "epochs": 2, "filters": 8, "units": 32}
VARIANTS = {"one vector for the picture": {"attention": False}}
# Every image of the unseen splits contains a withheld pair of digits; no image of train, validation and test does.
SPLITS = {name: name for name in ("train", "validation", "validation_unseen", "test", "test_unseen")}

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ["", "<start>", "a", "an", *DIGITS, "left", "of", "above", "<end>"]  # A token is an index; 0 is padding.
START, END = 1, len(WORDS) - 1
LENGTH = 15  # "a one left of a two left of a three left of a four", and the end token.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=8)
    hp.Int("batch_size", 16, 256, step=16, default=32)  # Small: attention takes many steps to find its way.
    hp.Int("filters", 8, 64, step=8, default=16)  # Of the first convolution; the later ones have 2 and 4 times as many.
    hp.Int("units", 32, 512, step=32, default=128)
    hp.Boolean("attention", default=True)  # False gives the decoder one vector for the whole image at every step.
    hp.Float("dropout", 0.0, 0.7, default=0.2)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Teacher forcing: (image (B, 64, 64, 1), caption shifted right (B, T)) to logits (B, T, V)."""
    units = hp["units"]
    images = keras.Input((64, 64, 1), dtype="uint8", name="images")
    shifted = keras.Input((LENGTH,), dtype="int32", name="shifted_caption")
    parts = [
        layers.Embedding(len(WORDS), units, keras.initializers.RandomNormal(stddev=1.0), name="words"),
        layers.Dense(units, name="query"),
        layers.AdditiveAttention(name="attention"),
        layers.GRUCell(units, name="decoder"),
        layers.Dropout(hp["dropout"], name="decoder_dropout"),
        layers.Dense(len(WORDS), name="logits"),
    ]
    layer = {part.name: part for part in parts}.get
    cells = encode(hp, images)
    hidden_state = layers.Dense(units, activation="tanh", name="first_state")(ops.mean(cells, axis=1))
    logits = []
    for position in range(LENGTH):
        step_logits, hidden_state, _ = write(layer, shifted[:, position], hidden_state, cells)
        logits.append(step_logits)
    model = keras.Model([images, shifted], ops.stack(logits, axis=1), name="captioning")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("token_accuracy")],
        jit_compile=False,
    )
    return model


def encode(hp, images):
    """From images (B, 64, 64, 1) to their 8 x 8 cells (B, cells, units); without attention, to a single cell."""
    hidden = layers.Rescaling(1 / 255)(images)
    for factor, kernel_size in ((1, 5), (2, 3), (4, 3)):
        hidden = layers.Conv2D(factor * hp["filters"], kernel_size, padding="same", use_bias=False)(hidden)
        hidden = layers.MaxPooling2D()(hidden)  # In the end (B, 8, 8, 4 filters).
        # Black images have little variance: with the usual 0.99 its estimate would stay near 1, where it starts.
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
    hidden = layers.Conv2D(hp["units"], 3, padding="same", activation="relu")(hidden)
    count = 64 if hp["attention"] else 1
    hidden = layers.Dropout(hp["dropout"])(layers.Reshape((count, -1))(hidden))
    # Every cell has a bias of its own that encodes its position: attention itself sees no order.
    places = keras.initializers.RandomNormal(stddev=0.5)
    cells = layers.EinsumDense(
        "bcf,fu->bcu", (count, hp["units"]), activation="relu", bias_axes="cu", bias_initializer=places, name="cells"
    )
    return cells(hidden)


def write(layer, words, hidden_state, cells):
    """Reads a word (B,) and attends to the cells: logits (B, V), next state (B, units), attention (B, cells).

    layer: a function from a layer's name to the layer.
    """
    word = layer("words")(words)
    query = layer("query")(ops.concatenate([word, hidden_state], axis=-1))[:, None]  # (B, 1, units)
    context, attention = layer("attention")([query, cells], return_attention_scores=True)
    context = layer("decoder_dropout")(context[:, 0])
    hidden_state, _ = layer("decoder")(ops.concatenate([word, context], axis=-1), [hidden_state])
    return layer("logits")(ops.concatenate([hidden_state, context], axis=-1)), hidden_state, attention[:, 0]


@functools.cache
def read(split, examples):
    """The split's images (N, 64, 64, 1), uint8, and captions (N,), str."""
    scenes = tfds.load(mnist_scenes.Builder.name, split=SPLITS[split]).take(examples)
    batch = scenes.batch(examples).get_single_element()
    return batch["image"].numpy(), np.array([text.decode() for text in batch["caption"].numpy()])


def load_data(hp, split):
    """Batches of (image (B, 64, 64, 1), caption shifted right (B, T)), caption (B, T), weight (B, T): 1 on words."""
    images, captions = read(split, hp["examples"])
    tokens = [[*map(WORDS.index, caption.split()), END] for caption in captions]
    target = keras.utils.pad_sequences(tokens, LENGTH, padding="post")
    shifted, weight = shift_right(target, START)
    examples = tf.data.Dataset.from_tensor_slices(((images, shifted), target, weight))
    if split == "train":
        examples = shuffle(examples)
    return examples.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """The share of test images whose whole caption is right, overall and by number of digits, and the baseline's."""
    results = {}
    for split, name in (("test", ""), ("test_unseen", "_unseen_pairs")):
        images, captions = read(split, hp["examples"])
        right = caption(model, images) == captions
        digits = 1 + np.char.count(captions, "left") + np.char.count(captions, "above")
        results[f"exact_match{name}"] = float(np.mean(right))
        results[f"nearest_exact_match{name}"] = float(np.mean(nearest_captions(hp, images) == captions))
        for count in (2, 3, 4):
            results[f"exact_match_{count}_digits{name}"] = float(np.mean(right[digits == count]))
    return results


def nearest_captions(hp, images):
    """The baseline: for each image the caption of the nearest training image, both scaled down to a quarter."""
    known, captions = read("train", hp["examples"])
    small, known_small = (each.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(-1, 256) for each in (images, known))
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known_small)
    return captions[nearest.kneighbors(small, return_distance=False)[:, 0]]


def caption(model, images):
    """Describes images (N, 64, 64, 1), uint8, in words, always writing the likeliest one: a list of str."""

    @tf.function(input_signature=[tf.TensorSpec((None, 64, 64, 1), tf.uint8)])
    def write_all(images):
        cells, first_state = see(model, images)

        def step(tokens, states):
            logits, hidden_state, _ = write(model.get_layer, tokens, states[0], cells)
            return tf.nn.log_softmax(logits), [hidden_state]

        return greedy(step, tf.fill(tf.shape(images)[:1], START), [first_state], LENGTH, END)

    written = np.concatenate([write_all(batch) for batch in np.split(images, range(500, len(images), 500))])
    return [" ".join(WORDS[token] for token in row if 0 < token < END) for row in written]


def see(model, images):
    """The images' cells (B, cells, units), and the decoder's first state (B, units)."""
    outputs = [model.get_layer(name).output for name in ("cells", "first_state")]
    return keras.Model(model.inputs[0], outputs)(images, training=False)


def attention_maps(model, image, words):
    """What the decoder attended to in an image (64, 64, 1) before it wrote each of `words`: (words, 8, 8)."""
    cells, hidden_state = see(model, image[None])
    maps = []
    for word in ["<start>", *words[:-1]]:
        _, hidden_state, attention = write(model.get_layer, tf.constant([WORDS.index(word)]), hidden_state, cells)
        maps.append(attention[0])
    side = int(cells.shape[1] ** 0.5)
    return np.reshape(maps, (-1, side, side))


def show(model, hp):
    """Attention on images with a short, a medium and a long caption, pairs unseen in training, and wrong captions."""
    images, captions = read("validation_unseen", hp["examples"])
    written = caption(model, images)
    panels, titles = np.ones((3, LENGTH, 64, 64, 3)), np.full((3, LENGTH), "", dtype=object)
    chosen = np.argsort(np.char.str_len(captions), kind="stable")[[0, len(captions) // 2, -1]]
    for row, index in enumerate(chosen):
        words = [*written[index].split(), "<end>"][:LENGTH]
        maps = attention_maps(model, images[index], words)
        scale = 64 // maps.shape[1]
        # A third of the attention already gives full colour; it tints the image like a filter on a lens.
        opacity = np.minimum(1.0, 3.0 * maps).repeat(scale, axis=1).repeat(scale, axis=2)[..., None]
        paper = 0.95 - 0.95 * images[index] / 255
        panels[row, : len(words)] = paper * (1 - opacity * (1 - np.array(to_rgb(VALIDATION))))
        titles[row, : len(words)] = words
    picture = image_grid(panels.reshape(-1, 64, 64, 3), titles.ravel(), LENGTH, "What it attends to before each word")
    wrong = np.flatnonzero(written != captions)[:10]
    mistakes = [f"right    {captions[index]}\nwritten  {written[index]}" for index in wrong]
    return {"attention": picture, "mistakes": "\n\n".join(mistakes)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
