"""A Tree-LSTM reads sentences of film reviews along their parse trees and predicts the sentiment of every phrase.

Result    accuracy 0.4725 ± 0.0023 over 3 seeds, 1.4 minutes a run (1.4 CPU minutes) on 1 core
Baseline  logistic regression on TF-IDF of words and pairs of words, with the same phrases and labels as the networks
Published RNTN 0.457, no pretrained vectors; Socher et al. 2013, https://aclanthology.org/D13-1170
Paper     Tai, Socher, Manning, 2015, https://arxiv.org/abs/1503.00075: constituency version; no pretrained vectors here
Answers   Does a tree beat a sequence? The Tree-LSTM gets 47.3% of the test sentences and 65.9% of all phrases right, a
          bidirectional LSTM, after as many epochs and at the same learning rate, 45.7% and 65.5%.
          How far does a bag of words get? Logistic regression gets 43.8% of the sentences and 64.4% of all phrases
          right.

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
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from common.callbacks import OneCycle
from common.data import bucket, shuffle
from common.datasets import stanford_sentiment_treebank
from common.plots import MUTED, new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_sentences_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "linear_accuracy"},
    "published": {"value": 0.457, "source": "RNTN, Socher et al. 2013, no pretrained vectors"},
    "data": ["stanford_sentiment_treebank"],
}
TINY = {"examples": 100, "height": 5, "epochs": 2, "batch_size": 8, "vocabulary_size": 1_000, "units": 16}
VARIANTS = {"sequence": {"network": "sequence"}}
PINNED = ("height", "network")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]
BUCKETS = [2, 3, 4, 6, 8, 11, 15, 20, 27]  # The length of a sequence, in words, at which a bucket begins.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 40, 8544, default=8544)  # Trees read from each split at most.
    hp.Int("height", 5, 30, default=30)  # Levels above the words; higher trees are left out (none at 30).
    hp.Choice("network", ["tree", "sequence"], default="tree")
    hp.Int("epochs", 1, 30, default=10)
    hp.Int("batch_size", 8, 128, step=8, default=32)  # Trees, or for a sequence network as many phrases as they have.
    hp.Int("vocabulary_size", 1_000, 18_000, step=1_000, default=8_000)  # Covers every word that occurs twice.
    hp.Int("units", 16, 300, default=128)  # Of the sequence network, in each direction.
    hp.Int("embedding_size", 16, 300, default=128)
    hp.Float("embedding_scale", 0.01, 1.0, sampling="log", default=0.1)  # At the start.
    hp.Float("word_dropout", 0.0, 0.5, default=0.1)  # Of whole words.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Of a word's vector, and of a state before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-1)
    return hp


def build_model(hp):
    """Maps a batch (see `load_data`) to the logits of its phrases (N, 5) and of the sentences among them (B, 5)."""
    units, sequence = hp["units"], hp["network"] == "sequence"
    words = keras.Input((None,) if sequence else (), dtype="int32", name="words")  # (N, T), in trees (W,)
    roots, places = (keras.Input((), dtype="int32", name=name) for name in ("roots", "places"))  # (B,), (N,)
    levels = [keras.Input((2,), dtype="int32", name=f"level_{level}") for level in range(1, hp["height"] + 1)]
    scale = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
    vectors = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], scale, name="embedding")(words)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(*words.shape, 1))(vectors)  # Of whole words.
    vectors = layers.Dropout(hp["dropout"])(vectors)  # (N, T, embedding), in trees (W, embedding)
    if sequence:
        states = layers.Bidirectional(layers.LSTM(units))(vectors, mask=ops.not_equal(words, 0))  # (N, 2 units)
    else:
        leaf, inner = layers.Dense(3 * units, name="leaf"), layers.Dense(5 * units, name="inner")
        states = lstm_state(leaf(vectors))  # (W, 2 units)
        for children in levels:
            below = ops.take(states, children, axis=0)  # (n, 2, 2 units)
            parts = inner(ops.reshape(below[:, :, :units], (-1, 2 * units)))
            states = ops.concatenate([states, lstm_state(parts, below[:, 0, units:], below[:, 1, units:])], axis=0)
        states = ops.take(states[:, :units], places, axis=0)  # (N, units), in the order of the trees
    phrases = layers.Dense(len(CLASSES), name="phrases")(layers.Dropout(hp["dropout"])(states))
    sentences = layers.Identity(name="sentences")(ops.take(phrases, roots, axis=0))
    inputs = [words, roots] if sequence else [words, roots, places, *levels]
    model = keras.Model(inputs, [phrases, sentences], name=hp["network"])
    model.compile(
        optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0),
        loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"), None],
        metrics=[None, ["accuracy"]],
        weighted_metrics=[["accuracy"], None],
        steps_per_execution=4,
        jit_compile=False,  # XLA would compile the network anew for every batch, since all shapes differ.
    )
    return model


def lstm_state(parts, *cells):
    """A node's state (N, 2 units), its output and then its cell, from the gates' inputs and the children's cells."""
    input_gate, *forget_gates, output_gate, update = ops.split(parts, 3 + len(cells), axis=-1)
    # Adding one keeps the children's forget gates mostly open at the start, as in Keras's LSTM.
    gates = ops.sigmoid(ops.stack([input_gate, *(gate + 1.0 for gate in forget_gates)], axis=1))
    cell = ops.sum(gates * ops.stack([ops.tanh(update), *cells], axis=1), axis=1)  # `+` fails on levels without nodes.
    return ops.concatenate([ops.sigmoid(output_gate) * ops.tanh(cell), cell], axis=-1)


@functools.cache
def read(split, examples, height):
    """Trees of at most `height` levels: what `parse` returns, as ragged tensors whose rows are trees."""
    trees = tfds.load(stanford_sentiment_treebank.Builder.name, split=SPLITS[split]).take(examples)
    trees = trees.ragged_batch(examples).get_single_element()
    chosen = tf.reduce_max(trees["levels"], axis=1) <= height
    return {name: tf.ragged.boolean_mask(each, chosen) for name, each in trees.items()}


def distinct(hp, split):
    """The distinct phrases (N,), their labels (N,), the same wherever they occur, and which are sentences (N,)."""
    trees = read(split, hp["examples"], hp["height"])
    phrases, places = np.unique(trees["phrases"].values.numpy(), return_index=True)
    sentences = set(trees["phrases"][:, -1:].values.numpy())
    return phrases, trees["labels"].values.numpy()[places], np.array([phrase in sentences for phrase in phrases])


def encode(phrases, assets):
    """Numbers of the words in every phrase (N, ragged), int32; 0 is padding, and 1 a word outside the vocabulary."""
    lookup = layers.StringLookup(vocabulary=assets["vocabulary.txt"].split("\n"), mask_token="")
    return tf.cast(lookup(tf.strings.split(tf.strings.lower(phrases, "utf-8"), " ")), "int32")


def forest(trees, assets, height):
    """Joins trees: words (W,), roots (B,), every node's place in the forest (N,), and each level's children (n, 2).

    Nodes of a level have adjacent places, so that one step computes them. Children are places, roots are not.
    """
    levels = trees["levels"].values
    places = trees["levels"].with_values(tf.math.invert_permutation(tf.argsort(levels, stable=True)))  # Words first.
    words = encode(trees["phrases"].values[levels == 0], assets).values
    inner_levels = levels[levels > 0]
    children = tf.gather(places, trees["children"], batch_dims=1).values
    children = tf.gather(children, tf.argsort(inner_levels, stable=True))
    sizes = tf.math.bincount(inner_levels - 1, minlength=height, maxlength=height)
    return words, trees["levels"].row_limits() - 1, places.values, *tf.split(children, sizes, num=height)


def load_data(hp, split):
    """Batches of trees: inputs as from `forest`; labels of phrases (N,) and of sentences (B,); weights of phrases (N,).

    The weights make every distinct phrase of the split count once. For the sequence network, about as many batches of
    distinct phrases, without weights: words (N, T), 0 = padding on the right, and which are sentences (B,).
    """
    if hp["network"] == "sequence":
        phrases, labels, is_sentence = distinct(hp, split)
        words = encode(phrases, assets(hp))
        batch_size = round(hp["batch_size"] * len(phrases) / is_sentence.sum())
        batches = bucket((words, labels, is_sentence), words.row_lengths(), BUCKETS, batch_size, split == "train")
        batches = batches.map(lambda words, labels, chosen: ((words, tf.where(chosen)[:, 0]), (labels, labels[chosen])))
        return batches.prefetch(2)

    trees, vocabulary = read(split, hp["examples"], hp["height"]), assets(hp)
    _, places, counts = np.unique(trees["phrases"].values.numpy(), return_inverse=True, return_counts=True)
    weights = trees["labels"].with_values((1 / counts[places]).astype("float32"))
    dataset = tf.data.Dataset.from_tensor_slices({**trees, "weights": weights})
    batches = (shuffle(dataset) if split == "train" else dataset).batch(hp["batch_size"])

    def join(trees):
        labels = trees["labels"].values, trees["labels"][:, -1:].values
        return forest(trees, vocabulary, hp["height"]), labels, trees["weights"].values

    return batches.map(join, num_parallel_calls=2).prefetch(2)


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
    """The network's and the baseline's accuracy on the test sentences, and on all their distinct phrases."""
    measured = model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)
    (known, known_labels, _), (phrases, labels, is_sentence) = distinct(hp, "train"), distinct(hp, "test")
    # The best on validation, among C = 1, 2, 3, 10, 30, pairs and triples of words, TF-IDF and plain counts.
    vectorizer = TfidfVectorizer(token_pattern="[^ ]+", ngram_range=(1, 2))
    linear = LogisticRegression(C=3.0, max_iter=1_000).fit(vectorizer.fit_transform(known), known_labels)
    is_right = linear.predict(vectorizer.transform(phrases)) == labels
    return {
        "accuracy": measured["sentences_accuracy"],
        "phrase_accuracy": measured["phrases_accuracy"],
        "linear_accuracy": np.mean(is_right[is_sentence]),
        "linear_phrase_accuracy": np.mean(is_right),
    }


def judge(model, assets, tree):
    """The probabilities (N, 5) of the classes for every node of a tree, given as a batch of one (see `read`)."""
    height, phrases = len(model.inputs) - 3, tree["phrases"].values
    inputs = forest(tree, assets, height) if height > 0 else (encode(phrases, assets).to_tensor(), tf.constant([0]))
    return ops.convert_to_numpy(ops.softmax(model(inputs, training=False)[0]))


def predict(model, assets, inputs):
    """The sentiment of each sentence, with its probability.

    inputs: sentences in brackets, "((a (great film)) .)", or plain words, which are read as a right-branching tree.
    Raises ValueError for other brackets, no words, or a tree with more levels than the model has (30).

        model = keras.models.load_model("model.keras")
        assets = {"vocabulary.txt": open("vocabulary.txt").read()}
        predict(model, assets, ["((a (great film)) .)"])
    """
    answers, height = [], len(model.inputs) - 3
    for text in inputs:
        words = re.findall(r"\w+(?=n't)|n't|'\w+|[\w-]+|[^\w\s()]", text)
        branching = " ".join(f"({word}" for word in words) + ")" * len(words)
        tree = stanford_sentiment_treebank.parse(text if text.startswith("(") else branching)
        if tree["levels"][-1] > height > 0:  # A sequence network reads trees of any height.
            raise ValueError(f"{text!r} has {tree['levels'][-1]} levels: expected at most {height}")
        batch = {name: tf.RaggedTensor.from_tensor(np.array([each])) for name, each in tree.items()}
        probabilities = judge(model, assets, batch)[-1]
        answers.append(f"{CLASSES[probabilities.argmax()]} ({probabilities.max():.2f})")
    return answers


def assets(hp):
    """The commonest words of the training trees in lower case, one per line."""
    sentences = read("train", hp["examples"], hp["height"])["phrases"][:, -1:].values
    counts = collections.Counter(tf.strings.split(tf.strings.lower(sentences, "utf-8"), " ").values.numpy())
    return {"vocabulary.txt": "\n".join(word.decode() for word, _ in counts.most_common(hp["vocabulary_size"] - 2))}


def show(model, hp):
    """The sentiment of every phrase in a short validation sentence: as people labelled it, and as the network does."""
    trees = read("validation", hp["examples"], hp["height"])
    short = [place for place, size in enumerate(trees["children"].row_lengths()) if 4 <= size <= 8]
    mixed = max(short, key=lambda place: np.ptp(trees["labels"][place]))
    tree = {name: each[mixed : mixed + 1] for name, each in trees.items()}
    predicted = judge(model, assets(hp), tree) @ np.arange(5)
    phrases, children, levels, labels = (tree[name][0].numpy() for name in ("phrases", "children", "levels", "labels"))
    picture, ax = new(6, 5.5)
    across = np.arange(len(levels), dtype="float32")  # Words stand side by side, every other node between its children.
    for node, (left, right) in enumerate(children, start=len(children) + 1):
        across[node] = (across[left] + across[right]) / 2
        ax.plot(across[[left, node, right]], levels[[left, node, right]], color=MUTED, linewidth=2, zorder=1)
    for size, sentiments in ((800, labels), (270, predicted)):
        dots = ax.scatter(across, levels, size, sentiments, cmap="RdYlBu", vmin=0, vmax=4, ec="black")
    words = [phrase.decode() for phrase in phrases[levels == 0]]
    ax.set_xticks(range(len(words)), words, rotation=40, ha="right", fontsize=17)
    ax.set_title("How positive is each phrase?\nring: people, disc: the network", fontsize=18)
    ax.set(yticks=[], frame_on=False, xmargin=0.1, ymargin=0.15)
    picture.colorbar(dots, location="bottom", ticks=[0, 2, 4]).ax.set_xticklabels(CLASSES[::2], fontsize=15)
    return {"trees": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
