"""A Tree-LSTM reads sentences of film reviews along their parse trees and tells the sentiment of every phrase.

Result    accuracy 0.4659 ± 0.0035 over 3 seeds, 10.7 minutes a run (7.0 of CPU) on 1 core
Baseline  a bag of words: naive Bayes on words and pairs of words, trained on the same sentences
Anchor    RNTN 0.457 (two classes: 0.854) without pretrained word vectors, Socher et al. 2013,
          https://aclanthology.org/D13-1170
Paper     Tai, Socher, Manning: Improved Semantic Representations From Tree-Structured Long Short-Term Memory Networks,
          2015, https://arxiv.org/abs/1503.00075, the constituency version. There the word vectors are GloVe's, here
          they start at random. The two networks beside it: the plain recursive network of Socher et al. 2011, and an
          LSTM in two directions that reads every phrase of the training trees as a sequence of its own.
Answers   Does a network that follows the syntax beat one that reads the words in order? What do the gates of an LSTM
          add to a plain recursive network? How far does a bag of words get?

    python -m recipes.recurrent.tree
    python -m recipes.recurrent.tree --set units=100 --seed 1
"""

import collections
import functools

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from common import data, plots, runner, training
from common.datasets import stanford_sentiment_treebank

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_sentences_accuracy", "better": "higher"},
    "baseline": {"name": "naive Bayes on words and pairs of words", "metric": "bag_of_words_accuracy"},
    "anchor": {"value": 0.457, "source": "RNTN, Socher et al. 2013, no pretrained vectors"},
    "data": ["stanford_sentiment_treebank"],
}
TINY = {"examples": 40, "epochs": 2, "sequence_epochs": 2, "units": 16, "embedding_size": 16}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]
HEIGHT = 30  # Levels above the words that a tree may have; no tree of the treebank has more than 29.
UNKNOWN = 1  # A word that the vocabulary has not; 0 is padding.
BUCKETS = [2, 3, 4, 6, 9, 14, 21]  # Upper ends of a sequence's length, in words.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 40, 8544, default=8544)  # Trees read from each split at most.
    hp.Int("epochs", 1, 30, default=10)
    hp.Int("sequence_epochs", 1, 10, default=3)  # Of the sequential network: each holds every phrase.
    hp.Int("batch_size", 8, 128, step=8, default=32)  # Trees of a forest; eight times as many phrases as sequences.
    hp.Int("vocabulary_size", 1_000, 18_000, step=1_000, default=8_000)  # A word seen twice has its place.
    hp.Int("units", 16, 300, default=128)
    hp.Int("embedding_size", 16, 300, default=128)
    hp.Float("embedding_scale", 0.01, 1.0, sampling="log", default=0.1)  # At the start.
    hp.Float("word_dropout", 0.0, 0.5, default=0.1)  # Share of the words that a training step doesn't see.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Of a word's vector, and of a state before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak, after a tenth of the steps.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-1)
    return hp


@functools.cache
def read(split, examples):
    """A split's trees: a list of (words, children, labels) as `stanford_sentiment_treebank.parse` returns them."""
    trees = data.load(stanford_sentiment_treebank.Builder, SPLITS[split], examples).as_numpy_iterator()
    return [([word.decode() for word in tree["words"]], tree["children"], tree["labels"]) for tree in trees]


def vocabulary(hp):
    """The commonest words of the training trees in lower case, a list of str: word i has the number i + 2."""
    counts = collections.Counter(word.lower() for words, _, _ in read("train", hp["examples"]) for word in words)
    return [word for word, _ in counts.most_common(hp["vocabulary_size"] - 2)]


def join(arrays):
    """A ragged tensor of arrays that differ in length."""
    return tf.RaggedTensor.from_row_lengths(np.concatenate(arrays), [len(array) for array in arrays])


def encode(sentences, words):
    """Numbers of the words in each sentence, ragged int32; words: a vocabulary."""
    number = {word: index for index, word in enumerate(words, start=2)}
    return join([np.array([number.get(word.lower(), UNKNOWN) for word in each], "int32") for each in sentences])


def heights(words, children):
    """The level of every node above the words, which are level 0: (n - 1,) int32."""
    levels = [0] * len(words)
    for left, right in children.tolist():
        levels.append(1 + max(levels[left], levels[right]))
    return np.array(levels[len(words) :], "int32")


def plant(words, children, levels, labels):
    """Makes one forest of a batch of trees: nodes of equal height stand together, so that one step computes them all.

    words (B, n), children (B, n - 1, 2), levels (B, n - 1), labels (B, 2 n - 1): ragged, for trees of n words.

    Returns:
        The model's inputs: all words (W,), the roots' places in the forest (B,), and for every height the places of
        its nodes' children (N, 2). Then the labels: of all nodes (2 W - B,) in the order of the forest, of roots (B,).
    """
    order = tf.argsort(levels.values, stable=True)
    leaf_places = words.with_values(tf.range(tf.size(words.values)))
    inner_places = levels.with_values(tf.size(words.values) + tf.math.invert_permutation(order))
    places = tf.concat([leaf_places, inner_places], axis=1)  # (B, 2 n - 1): from a tree's nodes to the forest's.
    children = tf.gather(tf.gather(places, children, batch_dims=1).values, order)
    sizes = tf.math.bincount(levels.values - 1, minlength=HEIGHT, maxlength=HEIGHT)
    forest_labels = tf.scatter_nd(places.values[:, None], labels.values, tf.shape(labels.values))
    roots = places[:, -1:].values
    return (words.values, roots, *tf.split(children, sizes, num=HEIGHT)), (
        forest_labels,
        tf.gather(forest_labels, roots),
    )


def ragged(trees, words):
    """Trees as `plant` takes them, with `words` for a vocabulary."""
    sentences, children, labels = zip(*trees)
    levels = [heights(sentence, each) for sentence, each in zip(sentences, children)]
    return encode(sentences, words), join(children), join(levels), join(labels)


def load_data(hp, split):
    """Forests: ((words, roots, children by height), (labels of all nodes, labels of the roots)), see `plant`."""
    trees = tf.data.Dataset.from_tensor_slices(ragged(read(split, hp["examples"]), vocabulary(hp)))
    if split == "train":
        trees = data.shuffle(trees)
    return trees.batch(hp["batch_size"]).map(plant, num_parallel_calls=2).prefetch(2)


def phrases(trees):
    """Every phrase of the trees once: {tuple of words: label}."""
    found = {}
    for words, children, labels in trees:
        spans = [(index, index + 1) for index in range(len(words))]
        spans += [None] * len(children)
        for node, (left, right) in enumerate(children, start=len(words)):
            spans[node] = (spans[left][0], spans[right][1])
        found |= {tuple(words[start:end]): label for (start, end), label in zip(spans, labels)}
    return found


def load_sequences(hp, split):
    """Batches of words (B, T), int32, 0 = padding on the right, and labels (B,): phrases to train on, else sentences."""
    trees = read(split, hp["examples"])
    labelled = phrases(trees) if split == "train" else {tuple(words): labels[-1] for words, _, labels in trees}
    tokens = encode(labelled, vocabulary(hp))
    sequences = tf.data.Dataset.from_tensor_slices((tokens, list(labelled.values())))
    sequences = sequences.map(lambda tokens, label: (tf.identity(tokens), label))
    return data.bucket(sequences, tokens.row_lengths(), BUCKETS, 8 * hp["batch_size"], split == "train").prefetch(2)


def embed(hp, words):
    """Vectors of words (..., embedding); in training some words are missing, and some numbers of all others."""
    start = keras.initializers.RandomNormal(stddev=hp["embedding_scale"])
    vectors = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"], start, name="embedding")(words)
    vectors = layers.Dropout(hp["word_dropout"], noise_shape=(*[None] * len(words.shape), 1))(vectors)
    return layers.Dropout(hp["dropout"])(vectors)


def build_model(hp, gates=True):
    """A forest's words (W,), roots (B,) and children by height (N, 2) to logits of all nodes and of the roots (., 5).

    Every level gathers its nodes' children from all that stands below and appends the result; weights are shared.

    gates: True builds the Tree-LSTM (Tai et al. 2015, section 3.2), False the plain recursive network.
    """
    units = hp["units"]
    words = keras.Input((), dtype="int32", name="words")
    roots = keras.Input((), dtype="int32", name="roots")
    levels = [keras.Input((2,), dtype="int32", name=f"level_{height}") for height in range(1, HEIGHT + 1)]
    vectors = embed(hp, words)  # (W, embedding)
    if gates:
        leaf, inner = layers.Dense(3 * units, name="leaf"), layers.Dense(5 * units, name="inner")
        input_gate, output_gate, update = ops.split(leaf(vectors), 3, axis=-1)
        cell = ops.sigmoid(input_gate) * ops.tanh(update)
        hidden = ops.sigmoid(output_gate) * ops.tanh(cell)
        states = ops.concatenate([hidden, cell], axis=-1)  # (W, 2 units), growing by the nodes of every level.
        for children in levels:
            below = ops.take(states, children, axis=0)  # (N, 2, 2 units)
            hidden, cells = below[:, :, :units], below[:, :, units:]
            parts = ops.split(inner(ops.reshape(hidden, (-1, 2 * units))), 5, axis=-1)
            input_gate, left_gate, right_gate, output_gate, update = parts
            # Adding one leaves the gates of both children mostly open at the start, as Keras's LSTM does.
            gates_in = ops.stack([input_gate, left_gate + 1.0, right_gate + 1.0], axis=1)  # (N, 3, units)
            contents = ops.concatenate([ops.tanh(update)[:, None], cells], axis=1)
            cell = ops.sum(ops.sigmoid(gates_in) * contents, axis=1)  # A sum, since `+` fails on levels without nodes.
            hidden = ops.sigmoid(output_gate) * ops.tanh(cell)
            states = ops.concatenate([states, ops.concatenate([hidden, cell], axis=-1)], axis=0)
        hidden = states[:, :units]
    else:
        inner = layers.Dense(units, activation="tanh", name="inner")
        hidden = layers.Dense(units, activation="tanh", name="leaf")(vectors)
        for children in levels:
            below = ops.take(hidden, children, axis=0)  # (N, 2, units)
            hidden = ops.concatenate([hidden, inner(ops.reshape(below, (-1, 2 * units)))], axis=0)

    logits = layers.Dense(len(CLASSES), name="sentiment")(layers.Dropout(hp["dropout"])(hidden))
    nodes = layers.Identity(name="nodes")(logits)
    sentences = layers.Identity(name="sentences")(ops.take(logits, roots, axis=0))
    model = keras.Model([words, roots, *levels], [nodes, sentences], name="tree_lstm" if gates else "recursive")
    # A sentence's own label is one of its nodes' labels: it is measured, and learned from among the others.
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), None]
    batches = -(-hp["examples"] // hp["batch_size"])
    model.compile(optimizer(hp, hp["epochs"] * batches), loss, metrics=[None, ["accuracy"]], steps_per_execution=4)
    return model


def build_sequence_model(hp, steps):
    """Words (B, T) to logits (B, 5): an LSTM in two directions, whose last states stand for the phrase."""
    words = keras.Input((None,), dtype="int32", name="words")
    recurrent = layers.Bidirectional(layers.LSTM(hp["units"]), name="lstm")
    hidden = recurrent(embed(hp, words), mask=ops.not_equal(words, 0))  # (B, 2 units)
    logits = layers.Dense(len(CLASSES), name="sentiment")(layers.Dropout(hp["dropout"])(hidden))
    model = keras.Model(words, logits, name="sequence")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The same name as the trees' metric; in training it counts phrases.
    metric = keras.metrics.SparseCategoricalAccuracy("sentences_accuracy")
    model.compile(optimizer(hp, steps), loss, metrics=[metric], steps_per_execution=16)
    return model


def optimizer(hp, steps):
    """AdamW, whose learning rate rises in the first tenth of the steps and falls to zero by a cosine."""
    warm_up = -(-steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=hp["learning_rate"], warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0)


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed`; returns the models by name, the Tree-LSTM first."""
    keras.utils.set_random_seed(seed)

    def fit(model, stage, batches, validation, epochs, examples):
        model.fit(
            batches,
            validation_data=validation,
            epochs=epochs,
            callbacks=callbacks(stage, examples=examples),
            verbose=0,
            shuffle=False,
        )
        return model

    sequences, validation = load_sequences(hp, "train"), load_sequences(hp, "validation")
    sequence = build_sequence_model(hp, hp["sequence_epochs"] * len(sequences))
    known = len(phrases(read("train", hp["examples"])))
    fit(sequence, "sequence", sequences, validation, hp["sequence_epochs"], known)
    forests, validation = load_data(hp, "train"), load_data(hp, "validation")
    recursive = fit(build_model(hp, gates=False), "recursive", forests, validation, hp["epochs"], hp["examples"])
    tree_lstm = fit(build_model(hp), "tree-lstm", forests, validation, hp["epochs"], hp["examples"])
    return {"tree-lstm": tree_lstm, "recursive": recursive, "sequence": sequence}


def outcomes(logits, labels):
    """The share of right classes among five; and of right signs, without neutral sentences, by summed probabilities."""
    probabilities = ops.convert_to_numpy(ops.softmax(logits))
    labels = np.asarray(labels)
    signed = labels != 2
    positive = probabilities[:, 3:].sum(axis=1) > probabilities[:, :2].sum(axis=1)
    accuracy = np.mean(probabilities.argmax(axis=1) == labels)
    return float(accuracy), float(np.mean(positive[signed] == (labels[signed] > 2)))


def judge(model, batches):
    """Logits of whole sentences (N, 5), and their labels (N,), from forests or from sequences."""
    outputs = model.predict(batches, verbose=0)
    labels = [label[1] if isinstance(label, tuple) else label for _, label in batches]
    return outputs[1] if isinstance(outputs, list) else outputs, np.concatenate(labels)


def bag_of_words(hp, split):
    """The baseline's log probabilities of the split's sentences (N, 5)."""
    trees, others = read("train", hp["examples"]), read(split, hp["examples"])
    vectorizer = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    features = vectorizer.fit_transform([" ".join(words) for words, _, _ in trees])
    classifier = MultinomialNB().fit(features, [labels[-1] for _, _, labels in trees])
    logits = np.full((len(others), len(CLASSES)), -np.inf)
    log_probabilities = classifier.predict_log_proba(vectorizer.transform([" ".join(words) for words, _, _ in others]))
    logits[:, classifier.classes_] = log_probabilities
    return logits


def evaluate(models, hp):
    """Accuracy on the test sentences of the Tree-LSTM, the two other networks and the baseline: five classes and two."""
    forests, sequences = load_data(hp, "test"), load_sequences(hp, "test")
    accuracy, binary_accuracy = outcomes(*judge(models["tree-lstm"], forests))
    recursive_accuracy, recursive_binary_accuracy = outcomes(*judge(models["recursive"], forests))
    sequence_accuracy, sequence_binary_accuracy = outcomes(*judge(models["sequence"], sequences))
    labels = [labels[-1] for _, _, labels in read("test", hp["examples"])]
    bag_of_words_accuracy, bag_of_words_binary_accuracy = outcomes(bag_of_words(hp, "test"), labels)
    return {
        "accuracy": accuracy,
        "binary_accuracy": binary_accuracy,
        "recursive_accuracy": recursive_accuracy,
        "recursive_binary_accuracy": recursive_binary_accuracy,
        "sequence_accuracy": sequence_accuracy,
        "sequence_binary_accuracy": sequence_binary_accuracy,
        "bag_of_words_accuracy": bag_of_words_accuracy,
        "bag_of_words_binary_accuracy": bag_of_words_binary_accuracy,
    }


def assets(hp):
    """The vocabulary, one word a line, as `sentiments` wants it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp))}


def sentiments(model, texts, words):
    """The probabilities of the five classes at every node of each tree.

    texts: trees in brackets, such as "((the film) (is (not good)))", at most HEIGHT levels high.
    words: the lines of vocabulary.txt.

    Returns:
        A list of (words of the tree, children (n - 1, 2), probabilities (2 n - 1, 5)).
    """
    return on_trees(model, [stanford_sentiment_treebank.parse(text) for text in texts], words)


def on_trees(model, trees, words):
    """As `sentiments`, from trees as `stanford_sentiment_treebank.parse` returns them."""
    found = []
    for tree in trees:
        inputs, _ = plant(*ragged([tree], words))
        probabilities = ops.convert_to_numpy(ops.softmax(model(inputs, training=False)[0]))
        # A forest of one tree has its words first, as the tree has, then the others by height.
        order = np.argsort(heights(tree[0], tree[1]), kind="stable")
        places = np.concatenate([np.arange(len(tree[0])), len(tree[0]) + np.argsort(order)])
        found.append((tree[0], tree[1], probabilities[places]))
    return found


def draw(trees, axes):
    """One tree an axis: every node in the colour of the sentiment that the model expects, ringed by the true one.

    trees: list of (words, children, probabilities (2 n - 1, 5), labels (2 n - 1,)).
    """
    colours = matplotlib.colormaps["RdYlBu"]
    for ax, (words, children, probabilities, labels) in zip(axes, trees):
        across = list(range(len(words)))
        for left, right in children:
            across.append((across[left] + across[right]) / 2)
        up = [0] * len(words) + heights(words, children).tolist()
        for node, pair in enumerate(children, start=len(words)):
            for child in pair:
                ax.plot([across[node], across[child]], [up[node], up[child]], color=plots.MUTED, zorder=1)
        sentiment = probabilities @ np.linspace(0, 1, len(CLASSES))
        ax.scatter(across, up, s=260, color=colours(np.array(labels) / 4), zorder=2)
        ax.scatter(across, up, s=110, color=colours(sentiment), edgecolors="white", zorder=3)
        ax.set_xticks(range(len(words)), words, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(yticks=[], ylim=(-0.6, max(up) + 0.6), xlim=(-0.7, len(words) - 0.3))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)


def show(models, hp):
    """Four validation trees with the sentiment of every node, and what the networks say of ten sentences."""
    words, trees = vocabulary(hp), read("validation", hp["examples"])
    # Of the short sentences those whose phrases differ most from each other: praise and blame in one.
    chosen = sorted((tree for tree in trees if 6 <= len(tree[0]) <= 14), key=lambda tree: -np.ptp(tree[2]))[:4]
    picture, axes = plots.new(14, 9, rows=2, columns=2)
    found = on_trees(models["tree-lstm"], chosen, words)
    draw([(*tree, labels) for tree, (_, _, labels) in zip(found, chosen)], axes.flat)
    bar = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 4), "RdYlBu")
    picture.colorbar(bar, ax=axes, ticks=range(5), shrink=0.5).ax.set_yticklabels(CLASSES)
    picture.suptitle("inner disc: expected by the Tree-LSTM; ring: the label")

    sentences = encode([tree[0] for tree in trees[:10]], words).to_tensor()
    sequence = ops.convert_to_numpy(models["sequence"](sentences, training=False)).argmax(axis=1)
    lines = [f"{'label':15}{'Tree-LSTM':15}{'recursive':15}sequence"]
    tree_lstm, recursive = (on_trees(models[name], trees[:10], words) for name in ("tree-lstm", "recursive"))
    for tree, (_, _, first), (_, _, second), third in zip(trees, tree_lstm, recursive, sequence):
        verdicts = tree[2][-1], first[-1].argmax(), second[-1].argmax(), third
        lines.append("".join(f"{CLASSES[verdict]:15}" for verdict in verdicts).rstrip() + "\n    " + " ".join(tree[0]))
    return {"trees": picture, "sentences": "\n".join(lines)}


if __name__ == "__main__":
    runner.run(__spec__.name)
