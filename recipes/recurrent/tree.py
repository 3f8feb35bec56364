"""A Tree-LSTM reads sentences of film reviews along their parse trees and predicts the sentiment of every phrase.

Result    accuracy 0.4659 ± 0.0035 over 3 seeds, 10.7 minutes a run (7.0 CPU minutes) on 1 core
Baseline  naive Bayes on words and pairs of words, trained on the same sentences
Published RNTN 0.457 (two classes: 0.854), no pretrained vectors; Socher et al. 2013, https://aclanthology.org/D13-1170
Paper     Tai, Socher, Manning, 2015, https://arxiv.org/abs/1503.00075: constituency version; no pretrained vectors here
Answers   Does a tree beat a sequence? not measured yet
          What do the gates of an LSTM add? Accuracy is 0.466, and 0.451 without them.
          How far does a bag of words get? Naive Bayes on words and pairs gets 0.396.

    python -m recipes.recurrent.tree
    python -m recipes.recurrent.tree --try "((a (great film)) .)" "A great film."
"""

import collections
import functools
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from common.callbacks import OneCycle
from common.data import bucket, shuffle
from common.datasets import stanford_sentiment_treebank
from common.plots import MUTED, new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_sentences_accuracy", "better": "higher"},
    "baseline": {"name": "naive Bayes on words and pairs of words", "metric": "bag_of_words_accuracy"},
    "published": {"value": 0.457, "source": "RNTN, Socher et al. 2013, no pretrained vectors"},
    "data": ["stanford_sentiment_treebank"],
    "answers": {
        "Does a tree beat a sequence?": "not measured yet",
        "What do the gates of an LSTM add?": "Accuracy is {accuracy:.3f}, and {recursive_accuracy:.3f} without them.",
        "How far does a bag of words get?": "Naive Bayes on words and pairs gets {bag_of_words_accuracy:.3f}.",
    },
}
TINY = {"examples": 150, "height": 5, "epochs": 2, "sequence_epochs": 2, "batch_size": 8, "units": 16}
PINNED = ("height", "sequence_epochs")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]
BUCKETS = [2, 3, 4, 6, 9, 14, 21]  # The length of a sequence, in words, at which a bucket begins.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 40, 8544, default=8544)  # Trees read from each split at most.
    hp.Int("height", 5, 30, default=30)  # Levels above the words; higher trees are left out (none at 30).
    hp.Int("epochs", 1, 30, default=10)
    hp.Int("sequence_epochs", 1, 10, default=3)  # Of the sequence network: each covers every phrase.
    hp.Int("batch_size", 8, 128, step=8, default=32)  # Trees in a forest; a batch of sequences has eight times as many.
    hp.Int("vocabulary_size", 1_000, 18_000, step=1_000, default=8_000)  # Covers every word that occurs twice.
    hp.Int("units", 16, 300, default=128)
    hp.Int("embedding_size", 16, 300, default=128)
    hp.Float("embedding_scale", 0.01, 1.0, sampling="log", default=0.1)  # At the start.
    hp.Float("word_dropout", 0.0, 0.5, default=0.1)  # Of whole words.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Of a word's vector, and of a state before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-1)
    return hp


def build_model(hp, gates=True):
    """Maps a forest (see `load_data`) to logits of all nodes and of the roots (., 5); `gates` make it a Tree-LSTM."""
    units = hp["units"]
    words, roots = (keras.Input((), dtype="int32", name=name) for name in ("words", "roots"))
    levels = [keras.Input((2,), dtype="int32", name=f"level_{level}") for level in range(1, hp["height"] + 1)]
    scale = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
    vectors = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], scale, name="embedding")(words)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(None, 1))(vectors)  # Of whole words.
    vectors = layers.Dropout(hp["dropout"])(vectors)  # (W, embedding)
    state = lstm_state if gates else lambda parts, *cells: ops.tanh(parts)
    sizes = {"leaf": 3, "inner": 5} if gates else {"inner": 1, "leaf": 1}
    dense = {name: layers.Dense(size * units, name=name) for name, size in sizes.items()}
    states = state(dense["leaf"](vectors))  # (W, 2 units), without gates (W, units)
    for children in levels:
        below = ops.take(states, children, axis=0)  # (N, 2, 2 units), without gates (N, 2, units)
        parts = dense["inner"](ops.reshape(below[:, :, :units], (-1, 2 * units)))
        states = ops.concatenate([states, state(parts, below[:, 0, units:], below[:, 1, units:])], axis=0)
    logits = layers.Dense(len(CLASSES), name="sentiment")(layers.Dropout(hp["dropout"])(states[:, :units]))
    sentences = layers.Identity(name="sentences")(ops.take(logits, roots, axis=0))
    nodes, name = layers.Identity(name="nodes")(logits), "tree-lstm" if gates else "recursive"
    model = keras.Model([words, roots, *levels], [nodes, sentences], name=name)
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), None]  # The roots are among the nodes.
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0)
    model.compile(optimizer, loss, metrics=[None, ["accuracy"]], steps_per_execution=4)
    return model


def lstm_state(parts, *cells):
    """A node's state (N, 2 units), its output and then its cell, from the gates' inputs and the children's cells."""
    input_gate, *forget_gates, output_gate, update = ops.split(parts, 3 + len(cells), axis=-1)
    # Adding one keeps the children's forget gates mostly open at the start, as in Keras's LSTM.
    gates = ops.sigmoid(ops.stack([input_gate, *(gate + 1.0 for gate in forget_gates)], axis=1))
    cell = ops.sum(gates * ops.stack([ops.tanh(update), *cells], axis=1), axis=1)  # `+` fails on levels without nodes.
    return ops.concatenate([ops.sigmoid(output_gate) * ops.tanh(cell), cell], axis=-1)


def build_sequence_model(hp):
    """From words (B, T) to logits (B, 5): a bidirectional LSTM, whose last states represent the phrase."""
    words = keras.Input((None,), dtype="int32", name="words")
    recurrent = layers.Bidirectional(layers.LSTM(hp["units"]), name="lstm")
    scale = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
    vectors = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], scale, name="embedding")(words)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1))(vectors)
    hidden = recurrent(layers.Dropout(hp["dropout"])(vectors), mask=ops.not_equal(words, 0))  # (B, 2 units)
    logits = layers.Dense(len(CLASSES), name="sentiment")(layers.Dropout(hp["dropout"])(hidden))
    model = keras.Model(words, logits, name="sequence")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=16)
    return model


@functools.cache
def read(split, examples, height):
    """Trees of at most `height` levels: words (B, n), children (B, n - 1, 2), labels, levels (B, 2 n - 1), all ragged."""
    trees = tfds.load(stanford_sentiment_treebank.Builder.name, split=SPLITS[split]).take(examples)
    trees = trees.ragged_batch(examples).get_single_element()
    levels = tf.ragged.constant([levels_of(each) for each in trees["children"].to_list()], "int32")
    columns = trees["words"], trees["children"], trees["labels"], levels
    return [tf.ragged.boolean_mask(each, tf.reduce_max(levels, axis=1) <= height) for each in columns]


def levels_of(children):
    """The level of every node: 0 for words, one more than the higher child's for others."""
    levels = [0] * (len(children) + 1)
    for left, right in children:
        levels.append(1 + max(levels[left], levels[right]))
    return levels


def encode(words, assets):
    """Numbers of words, ragged int32; 0 is padding, and 1 a word outside the vocabulary."""
    lookup = layers.StringLookup(vocabulary=assets["vocabulary.txt"].split("\n"), mask_token="")
    return tf.cast(lookup(tf.strings.lower(words, "utf-8")), "int32")


def forest(height, words, children, labels, levels):
    """Joins a batch of trees (see `read`); nodes of a level are adjacent, so that one step computes them all."""
    order = tf.argsort(levels.values, stable=True)  # All words come first.
    places = levels.with_values(tf.math.invert_permutation(order))  # From a tree's nodes to the forest's.
    inner_levels = levels.values[levels.values > 0]
    children = tf.gather(tf.gather(places, children, batch_dims=1).values, tf.argsort(inner_levels, stable=True))
    sizes = tf.math.bincount(inner_levels - 1, minlength=height, maxlength=height)
    inputs = (words.values, places[:, -1:].values, *tf.split(children, sizes, num=height))
    return inputs, (tf.gather(labels.values, order), labels[:, -1:].values)


def load_data(hp, split):
    """Forests: words (W,), roots (B,), children by level (N, 2); labels of all nodes (2 W - B,) and of roots (B,)."""
    words, *columns = read(split, hp["examples"], hp["height"])
    trees = tf.data.Dataset.from_tensor_slices((encode(words, assets(hp)), *columns))
    batches = (shuffle(trees) if split == "train" else trees).batch(hp["batch_size"])
    return batches.map(lambda *tensors: forest(hp["height"], *tensors), num_parallel_calls=2).prefetch(2)


def load_sequences(hp, split):
    """Words (B, T), 0 = padding on the right, and labels (B,): of each phrase once for training, else of sentences."""
    label_of = {}
    for words, children, labels, _ in zip(*(each.to_list() for each in read(split, hp["examples"], hp["height"]))):
        phrases = [(word,) for word in words]
        for left, right in children:
            phrases.append(phrases[left] + phrases[right])
        label_of |= dict(zip(phrases, labels) if split == "train" else [(phrases[-1], labels[-1])])
    tokens, labels = encode(tf.ragged.constant(list(label_of)), assets(hp)), np.array(list(label_of.values()))
    return bucket((tokens, labels), tokens.row_lengths(), BUCKETS, 8 * hp["batch_size"], split == "train").prefetch(2)


def train(hp, seed, callbacks=()):
    """Trains the three networks from `seed` and returns them by name."""
    keras.utils.set_random_seed(seed)
    sequence, recursive, tree_lstm = build_sequence_model(hp), build_model(hp, gates=False), build_model(hp)
    sequences = load_sequences(hp, "train"), load_sequences(hp, "validation"), hp["sequence_epochs"]
    forests = load_data(hp, "train"), load_data(hp, "validation"), hp["epochs"]
    for model, (batches, validation, epochs) in ((sequence, sequences), (recursive, forests), (tree_lstm, forests)):
        model.fit(
            batches,
            validation_data=validation,
            epochs=epochs,
            callbacks=[OneCycle(), *callbacks],
            shuffle=False,  # `load_data` did.
        )
    return {"model": tree_lstm, "recursive": recursive, "sequence": sequence}


def evaluate(models, hp):
    """Accuracy of all networks and the baseline on the test sentences: in five classes, and in two without neutral."""
    (words, _, labels, _), forests = read("test", hp["examples"], hp["height"]), load_data(hp, "test")
    known, _, known_labels, _ = read("train", hp["examples"], hp["height"])
    known, texts = (tf.strings.reduce_join(each, axis=1, separator=" ").numpy() for each in (known, words))
    vectorizer = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    bayes = MultinomialNB().partial_fit(vectorizer.fit_transform(known), known_labels[:, -1:].values, range(5))
    outputs = {
        "": models["model"].predict(forests, verbose=0)[1],
        "recursive_": models["recursive"].predict(forests, verbose=0)[1],
        "sequence_": models["sequence"].predict(encode(words, assets(hp)).to_tensor(), verbose=0),
        "bag_of_words_": bayes.predict_log_proba(vectorizer.transform(texts)),
    }
    labels, results = labels[:, -1:].values.numpy(), {}
    for name, logits in outputs.items():
        probabilities = ops.convert_to_numpy(ops.softmax(logits))
        positive = probabilities[:, 3:].sum(axis=1) > probabilities[:, :2].sum(axis=1)
        results[f"{name}accuracy"] = np.mean(probabilities.argmax(axis=1) == labels)
        results[f"{name}binary_accuracy"] = np.mean((positive == (labels > 2))[labels != 2])
    return results


def predict(model, assets, inputs):
    """The sentiment of each sentence, with its probability.

    inputs: sentences in brackets, "((a (great film)) .)", or plain words, which are read as a right-branching tree.
    Raises ValueError for other brackets, no words, or a tree with more levels than the model has (30).

        model = keras.models.load_model("model.keras")
        assets = {"vocabulary.txt": open("vocabulary.txt").read()}
        predict(model, assets, ["((a (great film)) .)"])
    """
    height, answers = len(model.inputs) - 2, []
    for text in inputs:
        words = re.findall(r"\w+(?=n't)|n't|'\w+|[\w-]+|[^\w\s()]", text)
        branching = " ".join(f"({word}" for word in words) + ")" * len(words)
        try:
            tree = stanford_sentiment_treebank.parse(text if text.startswith("(") else branching)
        except IndexError:  # A bracket that none opens.
            tree = [], [], []
        levels = levels_of(tree[1])
        if len(levels) != 2 * len(tree[0]) - 1 or levels[-1] > height:
            raise ValueError(f"{text!r}: expected words, or brackets as in ((a (great film)) .), up to {height} levels")
        words, *columns = (tf.RaggedTensor.from_tensor(np.array([each])) for each in (*tree, levels))
        batch, _ = forest(height, encode(words, assets), *columns)
        probabilities = ops.convert_to_numpy(ops.softmax(model(batch, training=False)[1]))[0]
        answers.append(f"{CLASSES[probabilities.argmax()]} ({probabilities.max():.2f})")
    return answers


def assets(hp):
    """The commonest words of the training trees in lower case, one per line."""
    words, *_ = read("train", hp["examples"], hp["height"])
    counts = collections.Counter(tf.strings.lower(words.values, "utf-8").numpy())
    return {"vocabulary.txt": "\n".join(word.decode() for word, _ in counts.most_common(hp["vocabulary_size"] - 2))}


def show(models, hp):
    """A short validation tree of mixed sentiment: what the Tree-LSTM predicts for each node, and its label."""
    trees = read("validation", hp["examples"], hp["height"])
    short = [index for index, length in enumerate(trees[0].row_lengths()) if 6 <= length <= 14]
    mixed = max(short, key=lambda index: np.ptp(trees[2][index]))
    tree = [each[mixed : mixed + 1] for each in trees]
    batch, (labels, _) = forest(hp["height"], encode(tree[0], assets(hp)), *tree[1:])
    predicted = ops.convert_to_numpy(ops.softmax(models["model"](batch, training=False)[0])) @ np.arange(5)
    words, children, _, levels = (each.values.numpy() for each in tree)
    spans = [(place, place) for place in range(len(words))]  # Of every node, its first and its last word.
    for left, right in children:
        spans.append((spans[left][0], spans[right][1]))
    across, order = np.mean(spans, axis=1), np.argsort(levels, kind="stable")  # The forest's order.
    lines = np.stack([children.ravel(), np.arange(len(words), len(spans)).repeat(2)])  # (2, 2 n - 2)
    picture, ax = new(8, 6)
    ax.plot(across[lines], levels[lines], color=MUTED, zorder=1)
    for size, sentiments in ((700, labels), (200, predicted)):
        dots = ax.scatter(across[order], levels[order], size, sentiments, cmap="RdYlBu", vmin=0, vmax=4, ec="black")
    ax.set_xticks(range(len(words)), [word.decode() for word in words], rotation=40, fontsize=14)
    ax.set(title="Sentiment of every phrase: predicted (disc) and labelled (ring)", yticks=[], frame_on=False)
    picture.colorbar(dots, location="bottom", ticks=range(5)).ax.set_xticklabels(CLASSES, fontsize=12)
    return {"trees": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
