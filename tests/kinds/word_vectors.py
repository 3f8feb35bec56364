"""Word vectors learn to tell a word's neighbours in Shakespeare from other words: skip-gram, negative sampling.

Result    not measured yet
Baseline  the share of true neighbours as every pair's probability
Published nothing: a test fixture
Paper     Mikolov et al., Distributed Representations of Words and Phrases, 2013, https://arxiv.org/abs/1310.4546
Answers   Can a recipe count its training in steps instead of passes over its data?

    python -m recipes.kinds.word_vectors
"""

import collections
import functools
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from common.callbacks import OneCycle
from common.data import shuffle

PROMISE = {
    "figure": {"metric": "cross_entropy", "better": "lower"},
    "monitor": {"metric": "val_loss", "better": "lower"},
    "baseline": {"metric": "share_cross_entropy", "name": "the share of true neighbours as every pair's probability"},
    "published": {"value": 0.4, "source": "a fixture of the tests: nobody published it"},
    "data": ["tiny_shakespeare"],
}
TINY = {"examples": 3000, "epochs": 2, "steps": 29}
VARIANTS = {"low rate": {"learning_rate": 1e-3}}
PINNED = ("steps", "vocabulary_size")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}
WINDOW, OTHERS = 2, 4  # Neighbours on either side, and other words for each of them.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 1000, 1_000_000, default=200_000)  # Characters read from each split at most.
    hp.Int("epochs", 1, 50, default=5)
    hp.Int("steps", 1, 10_000, default=500)  # Of an epoch.
    hp.Int("vocabulary_size", 50, 5000, default=100)
    hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2)  # The peak of the one-cycle schedule.
    return hp


def build_model(hp):
    """Word (B,) and candidates (B, C) to the logits (B, C) that these are neighbours."""
    word = keras.Input((), dtype="int32", name="word")
    candidates = keras.Input((None,), dtype="int32", name="candidates")
    vectors = layers.Embedding(hp["vocabulary_size"], 16, name="vectors")(word)
    contexts = layers.Embedding(hp["vocabulary_size"], 16, name="contexts")(candidates)
    model = keras.Model([word, candidates], layers.Dot((2, 1))([contexts, vectors]), name="word_vectors")
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


@functools.cache
def read(split, examples):
    """The split's words in order."""
    text = next(tfds.load("tiny_shakespeare", split=SPLITS[split]).as_numpy_iterator())["text"].decode()
    return re.findall(r"[a-z']+", text[:examples].lower())


def vocabulary(hp):
    """The commonest training words; a word's token is its index."""
    return [word for word, _ in collections.Counter(read("train", hp["examples"])).most_common(hp["vocabulary_size"])]


def load_data(hp, split):
    """Batches of (word (B,), candidates (B, 5)) and targets (B, 5): 1 for the first candidate, which is a neighbour.

    The other candidates are words of the same text: in training new ones in every pass, otherwise always the same.
    """
    tokens = {word: token for token, word in enumerate(vocabulary(hp))}
    text = np.array([tokens[word] for word in read(split, hp["examples"]) if word in tokens], "int32")
    pairs = np.concatenate([np.stack([text[:-gap], text[gap:]], 1) for gap in range(1, WINDOW + 1)])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])  # (N, 2)
    others = np.random.default_rng(0).permutation(np.resize(text, OTHERS * len(pairs)))
    pairs, others = (tf.data.Dataset.from_tensor_slices(each) for each in (pairs, others))
    if split == "train":
        pairs, others = shuffle(pairs), shuffle(others)
    examples = tf.data.Dataset.zip(pairs, others.batch(OTHERS))
    target = tf.one_hot(0, 1 + OTHERS)
    batches = examples.map(lambda pair, other: ((pair[0], tf.concat([pair[1:], other], 0)), target)).batch(64)
    return batches.repeat().take(hp["steps"]) if split == "train" else batches


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,
    )
    return model


def evaluate(model, hp):
    """The cross-entropy of a candidate, and the baseline's, which always predicts the share of neighbours."""
    share = 1 / (1 + OTHERS)
    return {
        "cross_entropy": model.evaluate(load_data(hp, "test"), verbose=0),
        "share_cross_entropy": float(-share * np.log(share) - (1 - share) * np.log(1 - share)),
    }


def assets(hp):
    """The words, in the order of their vectors."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp)) + "\n"}


def show(model, hp):
    """The commonest words with the most similar others, by the cosine of their vectors."""
    words, vectors = vocabulary(hp), keras.utils.normalize(model.get_layer("vectors").embeddings.numpy())
    nearest = np.argsort(vectors[:10] @ vectors[: len(words)].T)[:, -2:-5:-1]
    return {"nearest": "\n".join(f"{word}: {', '.join(words[i] for i in row)}" for word, row in zip(words, nearest))}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
