"""A Tree-LSTM reads sentences of film reviews along their parse trees and predicts the sentiment of every phrase.

Result    accuracy 0.4659 ± 0.0035 over 3 seeds, 10.7 minutes a run (7.0 of CPU) on 1 core
Baseline  a bag of words: naive Bayes on words and pairs of words, trained on the same sentences
Published RNTN 0.457 (two classes: 0.854), no pretrained vectors; Socher et al. 2013, https://aclanthology.org/D13-1170
Paper     Tai, Socher, Manning: Improved Semantic Representations From Tree-Structured Long Short-Term Memory Networks,
          2015, https://arxiv.org/abs/1503.00075, the constituency version; here without GloVe: vectors start at random.
          Beside it the plain recursive network of Socher et al. 2011, and a bidirectional LSTM on phrases as sequences.
Answers   Does a network that follows the syntax beat one that reads the words in order? What do the gates of an LSTM
          add to a plain recursive network? How far does a bag of words get?

    python -m recipes.recurrent.tree
    python -m recipes.recurrent.tree --set units=100 --seed 1
"""

import collections
import functools

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
}
TINY = {"examples": 150, "height": 5, "epochs": 2, "sequence_epochs": 2, "batch_size": 8, "units": 16}
PINNED = ("height", "sequence_epochs")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]
UNKNOWN = 1  # A word outside the vocabulary; 0 is padding.
BUCKETS = [2, 3, 4, 6, 9, 14, 21]  # The length of a sequence, in words, at which a bucket begins.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 40, 8544, default=8544)  # Trees read from each split at most.
    hp.Int("height", 5, 30, default=30)  # Levels above the words; higher trees are left out (none at 30).
    hp.Int("epochs", 1, 30, default=10)
    hp.Int("sequence_epochs", 1, 10, default=3)  # Of the sequence network: each covers every phrase.
    hp.Int("batch_size", 8, 128, step=8, default=32)  # Trees in a forest; a batch of sequences has eight times as many.
    hp.Int("vocabulary_size", 1_000, 18_000, step=1_000, default=8_000)  # Room for every word seen twice.
    hp.Int("units", 16, 300, default=128)
    hp.Int("embedding_size", 16, 300, default=128)
    hp.Float("embedding_scale", 0.01, 1.0, sampling="log", default=0.1)  # At the start.
    hp.Float("word_dropout", 0.0, 0.5, default=0.1)  # Share of the words that a training step doesn't see.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Of a word's vector, and of a state before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-1)
    return hp


def build_model(hp, gates=True):
    """From a forest (see `load_data`) to logits of all nodes and of the roots (., 5); plain recursive without gates."""
    units = hp["units"]
    words, roots = (keras.Input((), dtype="int32", name=name) for name in ("words", "roots"))
    levels = [keras.Input((2,), dtype="int32", name=f"level_{level}") for level in range(1, hp["height"] + 1)]
    vectors = embed(hp, words)  # (W, embedding)
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
    # A sentence's label is that of its root: it is learned among those of all nodes, and measured on its own.
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), None]
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0)
    model.compile(optimizer, loss, metrics=[None, ["accuracy"]], steps_per_execution=4)
    return model


def embed(hp, words):
    """Vectors of words (..., embedding); in training some words are dropped, and some components of all others."""
    start = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
    vectors = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], start, name="embedding")(words)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(*[None] * len(words.shape), 1))(vectors)
    return layers.Dropout(hp["dropout"])(vectors)


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
    hidden = recurrent(embed(hp, words), mask=ops.not_equal(words, 0))  # (B, 2 units)
    logits = layers.Dense(len(CLASSES), name="sentiment")(layers.Dropout(hp["dropout"])(hidden))
    model = keras.Model(words, logits, name="sequence")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalAccuracy("sentences_accuracy")  # The trees' name; in training, of phrases.
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0)
    model.compile(optimizer, loss, metrics=[metric], steps_per_execution=16)
    return model


@functools.cache
def read(split, examples, height):
    """The split's trees of at most `height` levels: (words, children, labels), as its `parse` returns them."""
    trees = tfds.load(stanford_sentiment_treebank.Builder.name, split=SPLITS[split]).take(examples).as_numpy_iterator()
    trees = (([word.decode() for word in tree["words"]], tree["children"], tree["labels"]) for tree in trees)
    return [tree for tree in trees if levels_of(tree[1])[-1] <= height]


def levels_of(children):
    """The level of every node, 0 for words, one more than the higher child's for others: (2 n - 1,) int32."""
    levels = [0] * (len(children) + 1)
    for left, right in children.tolist():
        levels.append(1 + max(levels[left], levels[right]))
    return np.array(levels, "int32")


def vocabulary(hp):
    """The commonest words of the training trees in lower case, a list of str: word i has the number i + 2."""
    trees = read("train", hp["examples"], hp["height"])
    counts = collections.Counter(word.lower() for words, _, _ in trees for word in words)
    return [word for word, _ in counts.most_common(hp["vocabulary_size"] - 2)]


def encode(sentences, words):
    """Numbers of the words in each sentence, ragged int32; words: a vocabulary."""
    number = {word: index for index, word in enumerate(words, start=2)}
    return join([np.array([number.get(word.lower(), UNKNOWN) for word in each], "int32") for each in sentences])


def join(arrays):
    """A ragged tensor of arrays that differ in length."""
    return tf.RaggedTensor.from_row_lengths(np.concatenate(arrays), [len(array) for array in arrays])


def tensors_of(trees, words):
    """Words (B, n) by their numbers, children (B, n - 1, 2), labels and levels (B, 2 n - 1) of trees, all ragged."""
    sentences, children, labels = zip(*trees)
    return encode(sentences, words), join(children), join(labels), join([levels_of(each) for each in children])


def forest(height, words, children, labels, levels):
    """Joins a batch of trees (see `tensors_of`); nodes of a level are adjacent, so that one step computes them all."""
    order = tf.argsort(levels.values, stable=True)  # All words come first.
    places = levels.with_values(tf.math.invert_permutation(order))  # From a tree's nodes to the forest's.
    inner_levels = levels.values[levels.values > 0]
    children = tf.gather(tf.gather(places, children, batch_dims=1).values, tf.argsort(inner_levels, stable=True))
    sizes = tf.math.bincount(inner_levels - 1, minlength=height, maxlength=height)
    inputs = (words.values, places[:, -1:].values, *tf.split(children, sizes, num=height))
    return inputs, (tf.gather(labels.values, order), labels[:, -1:].values)


def load_data(hp, split):
    """Forests: words (W,), roots (B,), children by level (N, 2); labels of all nodes (2 W - B,) and of roots (B,)."""
    trees = tf.data.Dataset.from_tensor_slices(tensors_of(read(split, hp["examples"], hp["height"]), vocabulary(hp)))
    batches = (shuffle(trees) if split == "train" else trees).batch(hp["batch_size"])
    return batches.map(lambda *tensors: forest(hp["height"], *tensors), num_parallel_calls=2).prefetch(2)


def load_sequences(hp, split):
    """Words (B, T), 0 = padding on the right, and labels (B,): of each phrase once for training, else of sentences."""
    label_of = {}
    for words, children, labels in read(split, hp["examples"], hp["height"]):
        phrases = [(word,) for word in words]
        for left, right in children:
            phrases.append(phrases[left] + phrases[right])
        label_of |= dict(zip(phrases, labels) if split == "train" else [(phrases[-1], labels[-1])])
    tokens, labels = encode(label_of, vocabulary(hp)), np.array(list(label_of.values()))
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
    trees, forests = read("test", hp["examples"], hp["height"]), load_data(hp, "test")
    sentences = encode([words for words, _, _ in trees], vocabulary(hp)).to_tensor()
    outputs = {
        "": models["model"].predict(forests, verbose=0)[1],
        "recursive_": models["recursive"].predict(forests, verbose=0)[1],
        "sequence_": models["sequence"].predict(sentences, verbose=0),
        "bag_of_words_": bag_of_words(hp, trees),
    }
    labels, results = np.array([labels[-1] for _, _, labels in trees]), {}
    for name, logits in outputs.items():
        probabilities = ops.convert_to_numpy(ops.softmax(logits))
        positive = probabilities[:, 3:].sum(axis=1) > probabilities[:, :2].sum(axis=1)
        results[f"{name}accuracy"] = np.mean(probabilities.argmax(axis=1) == labels)
        results[f"{name}binary_accuracy"] = np.mean((positive == (labels > 2))[labels != 2])
    return results


def bag_of_words(hp, trees):
    """The baseline's log probabilities of sentences (N, 5)."""
    known = read("train", hp["examples"], hp["height"])
    vectorizer = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    features = vectorizer.fit_transform(" ".join(words) for words, _, _ in known)
    classifier = MultinomialNB().partial_fit(features, [labels[-1] for _, _, labels in known], range(len(CLASSES)))
    return classifier.predict_log_proba(vectorizer.transform(" ".join(words) for words, _, _ in trees))


def sentiments(model, trees, words):
    """The probabilities of the five classes at every node of each tree, a list of (2 n - 1, 5).

    trees: as `stanford_sentiment_treebank.parse` returns them, no higher than the model; words: as in vocabulary.txt.
    """
    tensors = tensors_of(trees, words)
    inputs, _ = forest(len(model.inputs) - 2, *tensors)
    probabilities = ops.convert_to_numpy(ops.softmax(model(inputs, training=False)[0]))
    places = np.argsort(np.argsort(tensors[-1].values, kind="stable"))  # As in `forest`.
    return np.split(probabilities[places], np.cumsum([len(labels) for _, _, labels in trees])[:-1])


def assets(hp):
    """The vocabulary, one word per line, as `sentiments` expects it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp))}


def show(models, hp):
    """Four short validation trees of mixed sentiment: what the Tree-LSTM predicts for each node, and its label."""
    trees = [tree for tree in read("validation", hp["examples"], hp["height"]) if 6 <= len(tree[0]) <= 14]
    trees = sorted(trees, key=lambda tree: -np.ptp(tree[2]))[:4]
    picture, axes = new(14, 9, rows=2, columns=2)
    found = sentiments(models["model"], trees, vocabulary(hp))
    colours = {"cmap": "RdYlBu", "vmin": 0, "vmax": 4}
    for ax, (words, children, labels), probabilities in zip(axes.flat, trees, found):
        across, up = list(range(len(words))), levels_of(children)
        for left, right in children:
            across.append((across[left] + across[right]) / 2)
        lines = np.stack([children.ravel(), np.arange(len(words), len(labels)).repeat(2)])  # (2, 2 n - 2)
        ax.plot(np.array(across)[lines], up[lines], color=MUTED, zorder=1)
        ax.scatter(across, up, 260, labels, **colours)
        dots = ax.scatter(across, up, 110, probabilities @ np.arange(5), edgecolors="white", **colours)
        ax.set_xticks(range(len(words)), words, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(yticks=[], frame_on=False)
    picture.colorbar(dots, ax=axes, ticks=range(5), shrink=0.5).ax.set_yticklabels(CLASSES)
    picture.suptitle("disc: predicted by the Tree-LSTM; ring: the label")
    return {"trees": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
