"""A GRU classifies movie reviews as positive or negative from its last state, with and without a mask over the padding.

Result    accuracy 0.8863 ± 0.0020 over 3 seeds, 3.7 minutes a run (3.4 CPU minutes) on 2 cores
Baseline  logistic regression on TF-IDF features of the same words and of their pairs: it beats the network
Published 0.8700 with a mask passed explicitly, 0.5008 without: Géron, Hands-On Machine Learning, 3rd edition, chapter 16
          (https://github.com/ageron/handson-ml3), a GRU of 128 units on the 1,000 most frequent words, on validation
          data, after 5 epochs and 2; with `mask_zero=True` 0.8548
Paper     Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation,
          2014, https://arxiv.org/abs/1406.1078; Keras's GRU applies the reset gate after the matrix product.
Answers   Does the mask matter? With padding on the right, accuracy is 0.886 with a mask and 0.535 without; 49% of all
          steps are padding.
          Which side should be padded without a mask? The left, so that the words come last: accuracy is 0.887, no
          difference beyond the spread of the seeds from the masked network.
          Does averaging over time replace the mask? Yes: without a mask, the mean of all states gives 0.885, no
          difference beyond the spread of the seeds; with one, 0.879.
          What does truncation cost? The last 200 words suffice: 0.883, no difference beyond the spread of the seeds;
          the first 200 give 0.855.
          Which cell is best at equal size? After four epochs, with as many parameters, accuracy is 0.886 with a GRU,
          0.872 with an LSTM, and 0.834 with a SimpleRNN.
          How does a mask get lost without a warning? After `Embedding(mask_zero=True)`, the product `x * scale` drops
          it: accuracy is then 0.535.

    python -m recipes.recurrent.masking
    python -m recipes.recurrent.masking --set mask=none padding=left
    python -m recipes.recurrent.masking --try "A film that is anything but wonderful."
"""

import functools
import itertools
import json
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import feature_extraction, linear_model

from common.callbacks import OneCycle
from common.data import shuffle
from common.plots import TRAINING, VALIDATION, new, plain

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "published": {"value": 0.87, "source": "Géron 2022, chapter 16, explicit mask, on validation"},
    "data": ["imdb_reviews"],
}
TINY = {"examples": 70, "epochs": 2, "batch_size": 32, "length": 200, "vocabulary_size": 1_000, "units": 32}
VARIANTS = {
    "no mask": {"mask": "none"},
    "no mask, padded left": {"mask": "none", "padding": "left"},
    "lost mask": {"mask": "lost"},
    "mean": {"state": "mean"},
    "mean, no mask": {"state": "mean", "mask": "none"},
    "last 200 words": {"length": 200},
    "first 200 words": {"length": 200, "truncation": "first"},
    "LSTM": {"cell": "lstm"},
    "SimpleRNN": {"cell": "simple", "learning_rate": 1e-3},  # 3e-3 is worse.
}
PINNED = ("length", "padding")  # The cost of a trial, and what cuDNN accepts.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test"}

# These multiples of a GRU's units, also the embedding size, give all cells as many parameters, within 3%.
CELLS = {"gru": (layers.GRU, 1.0), "lstm": (layers.LSTM, 0.823), "simple": (layers.SimpleRNN, 2.01)}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # Reviews read from each split, at most.
    hp.Int("epochs", 1, 12, default=4)
    hp.Choice("batch_size", [32, 64, 128], default=128)
    hp.Int("vocabulary_size", 1_000, 50_000, step=1_000, default=10_000)
    hp.Int("length", 50, 1_000, step=50, default=400)  # Words per review, padding included.
    hp.Choice("truncation", ["first", "last"], default="last")  # Which words of a longer review to keep.
    hp.Choice("padding", ["right", "left"], default="right")  # cuDNN supports a mask only over padding on the right.
    hp.Choice("mask", ["explicit", "lost", "none"], default="explicit")  # Lost: made by the embedding, then dropped.
    hp.Choice("state", ["last", "mean"], default="last")  # Input of the output layer.
    hp.Choice("cell", list(CELLS), default="gru")
    hp.Choice("units", [32, 64, 96, 128], default=64)  # Of a GRU, and the size of the embeddings.
    hp.Float("word_dropout", 0.0, 0.7, default=0.3)  # Share of words dropped as a whole.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


def build_model(hp):
    """One recurrent layer, whose last state is classified: tokens (B, T), 0 = padding, to probability (B, 1)."""
    cell, multiple = CELLS[hp["cell"]]
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0) if hp["mask"] == "explicit" else None  # True = a word.
    embedding = layers.Embedding(hp["vocabulary_size"], hp["units"], mask_zero=hp["mask"] == "lost")
    # Keras's initial embeddings are too small for a recurrent layer. This product drops the mask of `mask_zero` without
    # a warning, as do `+`, slices and nearly all of `keras.ops`: a classic bug, which an explicit mask avoids.
    embedded = embedding(tokens) * hp["units"] ** 0.5  # (B, T, units)
    # The noise is shared by all channels, so that whole words are dropped and the model relies on no single one.
    embedded = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1), name="words")(embedded)
    recurrent = cell(round(multiple * hp["units"]), return_sequences=True, return_state=True, name="recurrent")
    hidden_states, state, *_ = recurrent(embedded, mask=mask)  # (B, T, units), (B, units)
    if hp["state"] == "mean":
        state = layers.GlobalAveragePooling1D()(hidden_states, mask=mask)
    probability = layers.Dense(1, activation="sigmoid", name="probability")(state)
    model = keras.Model(tokens, probability, name="masking")
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=0.01, clipnorm=hp["clip_norm"])
    model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"], steps_per_execution=16)
    return model


def read(split, examples):
    """The split's reviews (N,), bytes, and their labels (N,), 1 = positive."""
    reviews = tfds.load("imdb_reviews", split=SPLITS[split], as_supervised=True).take(examples)
    texts, labels = reviews.batch(examples).get_single_element()
    return texts.numpy(), labels.numpy()


@functools.cache
def vocabulary(examples, size):
    """The most frequent words of the training reviews, a list of str: word i is token i + 2."""
    vectorization = layers.TextVectorization(size)
    vectorization.adapt(read("train", examples)[0])
    return vectorization.get_vocabulary()[2:]


def encode(texts, words, length, truncation, padding):
    """The tokens of each text's first or last words (N, length), int32: 0 = padding, 1 = not in `words`."""
    rows = layers.TextVectorization(vocabulary=words, ragged=True)(texts).numpy()
    rows = [row if len(row) else [1] for row in rows]  # A text without words would have no last state.
    # `pad_sequences` pads and truncates on the left by default, which is why old examples worked without a mask.
    sides = {"right": "post", "left": "pre", "first": "post", "last": "pre"}
    return keras.utils.pad_sequences(rows, length, padding=sides[padding], truncating=sides[truncation])


def tokens_and_labels(hp, split):
    """The split's tokens (N, length), int32, 0 = padding, and labels (N,), 1 = positive."""
    texts, labels = read(split, hp["examples"])
    words = vocabulary(hp["examples"], hp["vocabulary_size"])
    return encode(texts, words, hp["length"], hp["truncation"], hp["padding"]), labels


def load_data(hp, split):
    """Batches of tokens (B, length), int32, 0 = padding, and labels (B,), 1 = positive."""
    # One length for all: batches of similar length would have little padding and hide its effect.
    dataset = tf.data.Dataset.from_tensor_slices(tokens_and_labels(hp, split))
    if split == "train":
        dataset = shuffle(dataset)
    return dataset.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
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
    """Accuracy of the network and the baseline on the test reviews, and the share of tokens that are padding."""
    (known, known_labels), (tokens, labels) = (tokens_and_labels(hp, split) for split in ("train", "test"))
    tfidf = feature_extraction.text.TfidfVectorizer(analyzer=words_and_pairs, min_df=2, sublinear_tf=True)
    baseline = linear_model.LogisticRegression(C=10.0, solver="liblinear")
    baseline.fit(tfidf.fit_transform(known), known_labels)
    return {
        "accuracy": float(np.mean((model.predict(tokens, verbose=0)[:, 0] > 0.5) == labels)),
        "tfidf_accuracy": baseline.score(tfidf.transform(tokens), labels),
        "padding_share": float(np.mean(tokens == 0)),
    }


def words_and_pairs(row):
    """The known words of a row of tokens and the pairs of neighbours among them, as tuples."""
    words = row[row > 1].tolist()
    return [*zip(words), *itertools.pairwise(words)]


def predict(model, assets, inputs):
    """Classifies reviews: each input is a text, each output "positive" or "negative" with its probability.

    Raises ValueError for a review without a word.

        model = keras.models.load_model("model.keras")
        assets = {name: open(name).read() for name in ("vocabulary.txt", "settings.json")}
        predict(model, assets, ["A film that is anything but wonderful."])
    """
    if not all(re.search(r"\w", text) for text in inputs):
        raise ValueError('a review has no words: expected text, such as "A film that is anything but wonderful."')
    tokens = encode(inputs, assets["vocabulary.txt"].split("\n"), **json.loads(assets["settings.json"]))
    probabilities = model.predict(tokens, verbose=0)[:, 0]
    return [f"{'positive' if each > 0.5 else 'negative'} ({max(each, 1 - each):.2f})" for each in probabilities]


def assets(hp):
    """The vocabulary, one word per line, and how `encode` truncates and pads."""
    words = vocabulary(hp["examples"], hp["vocabulary_size"])
    settings = {"length": hp["length"], "truncation": hp["truncation"], "padding": hp["padding"]}
    return {"vocabulary.txt": "\n".join(words), "settings.json": json.dumps(settings)}


def show(model, hp):
    """How the predictions for 100 reviews of 50 words drift over 200 steps of padding, with and without a mask."""
    words = vocabulary(hp["examples"], hp["vocabulary_size"])
    tokens = np.pad(
        encode(read("validation", hp["examples"])[0][:100], words, 50, "first", "right"), ((0, 0), (0, 200))
    )
    embedded = keras.Model(model.inputs[0], model.get_layer("words").output)(tokens, training=False)
    picture, axes = new(9, 4, columns=2, sharey=True)
    picture.suptitle("Predictions for 100 reviews, drifting over the padding; orange: negative at the last word")
    for ax, name, mask in zip(axes, ("with a mask", "the same weights without one"), (tokens > 0, None)):
        hidden_states, *_ = model.get_layer("recurrent")(embedded, mask=mask)  # (100, 250, units)
        for line in ops.convert_to_numpy(model.get_layer("probability")(hidden_states))[:, 49:, 0]:
            ax.plot(line, color=TRAINING if line[0] > 0.5 else VALIDATION, linewidth=0.8)
        plain(ax).set(title=name, xlabel="steps of padding after the last word")
    axes[0].set_ylabel("P(positive), computed from the state")
    return {"drift": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
