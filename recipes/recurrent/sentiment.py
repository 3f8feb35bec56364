"""A bidirectional LSTM beside a bag of word pairs, trained on imdb_reviews, tells whether a review praises or pans.

Result    accuracy 0.9038 ± 0.0010 over 3 seeds, 6.2 minutes a run (5.0 of CPU) on 1 core
Baseline  TF-IDF of words and pairs of words with logistic regression, on the same training reviews
Anchor    0.9056, fastText with pairs of words: https://github.com/keras-team/keras/blob/2.3.1/examples/imdb_fasttext.py
Paper     Zhou, Sun, Liu, Lau: A C-LSTM Neural Network for Text Classification, 2015, https://arxiv.org/abs/1511.08630,
          a convolution of three words before the LSTM. Here a step of the LSTM reads the maximum of four such triples,
          so that it has a quarter of the steps; it reads in two directions and is pooled over time (Johnson, Zhang,
          2016, https://arxiv.org/abs/1602.02373), and the bag of pairs of fastText stands beside it.
Answers   What does padding do to a recurrent network when the mask is left out? How much faster are batches of reviews
          of like length? Does the order of the words tell more than their pairs do? How far does a validation set
          flatter that shares films with the training set?

    python -m recipes.recurrent.sentiment
    python -m recipes.recurrent.sentiment --set cell=gru bidirectional=False
"""

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from common import data, runner, training

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "anchor": {"value": 0.9056, "source": "keras imdb_fasttext.py, words and pairs"},
    "data": ["imdb_reviews"],
}
TINY = {"examples": 64, "epochs": 2, "length": 100, "pair_buckets": 65536}
VARIANTS = {
    "recurrent layers alone": {"pairs": False},
    "mask off": {"mask": False},
    "bucketing off": {"bucketing": False},
    "mask and bucketing off": {"mask": False, "bucketing": False},  # Here more of a batch is padding than words.
}
# The reviews carved from train share films with it, so their accuracy flatters; `evaluate` measures by how much.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test"}
TRAINING_REVIEWS = 22_500
STRIDE = 4  # words that a step of the recurrent layers reads


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # read from each split; fewer for a quick look
    hp.Int("epochs", 1, 12, default=3)
    hp.Choice("batch_size", [32, 64, 128], default=64)
    hp.Int("vocabulary_size", 5_000, 50_000, step=5_000, default=20_000)  # a word seen 9 times has its place
    hp.Int("length", 100, 1_000, step=100, default=800)  # of a longer review the last words
    hp.Boolean("bucketing", default=True)  # batches of reviews of like length, so that little of a batch is padding
    hp.Boolean("mask", default=True)  # False takes padding for a word: the mistake that a variant measures
    hp.Choice("cell", ["simple", "lstm", "gru"], default="lstm")
    hp.Boolean("bidirectional", default=True)
    hp.Int("layers", 1, 3, default=1)
    hp.Choice("units", [32, 64, 96, 128], default=64)  # per direction
    hp.Choice("embedding_size", [32, 64, 96, 128], default=64)
    hp.Choice("filters", [64, 128, 256], default=128)  # of three words each
    hp.Boolean("pairs", default=True)  # False leaves the verdict to the recurrent layers
    hp.Choice("pair_buckets", [2**16, 2**18, 2**19, 2**20], default=2**19)  # places in the table of pairs
    hp.Choice("pair_embedding_size", [4, 8, 16, 32], default=16)
    hp.Float("word_dropout", 0.0, 0.7, default=0.3)  # share of the words that a training step doesn't see
    hp.Float("pair_dropout", 0.0, 0.7, default=0.5)  # and of the pairs
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # before the output
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # the peak, after a tenth of the steps
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    return hp


def read(hp, split):
    """Returns a whole split: texts (N,) of bytes and labels (N,), 1 = praise."""
    reviews = data.load("imdb_reviews", SPLITS[split], hp["examples"])
    batch = reviews.batch(hp["examples"]).get_single_element()
    return batch["text"], batch["label"]


def split_words(texts):
    """Splits texts (N,) into words (N, words of each): lower case, digits, ', and each ! and ? as a word of its own.

    All else separates words, and so does the line break that the reviews hold as <br />.
    """
    texts = tf.strings.regex_replace(tf.strings.lower(texts), r"<br />|[^a-z0-9'!?]", " ")
    return tf.strings.split(tf.strings.regex_replace(texts, r"[!?]", r" \0 "))


def vocabulary(hp):
    """Returns the commonest words of the training reviews, a list of str: word i has the number i + 2."""
    texts, _ = read(hp, "train")
    words, _, counts = tf.unique_with_counts(split_words(texts).values)
    commonest = np.argsort(-counts.numpy(), kind="stable")[: hp["vocabulary_size"] - 2]
    return [word.decode() for word in words.numpy()[commonest]]


def encode(texts, words):
    """Turns texts (N,) into numbers (N, words of each), ragged int32: 0 is padding, 1 a word not in `words`."""
    numbers = tf.range(2, len(words) + 2)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, numbers), default_value=1)
    return tf.ragged.map_flat_values(table.lookup, split_words(texts))


def load_data(hp, split):
    """Batches of tokens (B, T), int32, 0 = padding on the right, and labels (B,), 1 = praise."""
    texts, labels = read(hp, split)
    tokens = encode(texts, vocabulary(hp))[:, -hp["length"] :]
    dataset = tf.data.Dataset.from_tensor_slices((tokens, labels)).map(lambda tokens, label: (tokens, label))
    lengths = tokens.row_lengths().numpy()
    # Eight buckets of as many reviews each.
    edges = np.unique(np.quantile(lengths, np.arange(1, 8) / 8).astype(int)) if hp["bucketing"] else []
    return data.bucket(dataset, lengths, edges, hp["batch_size"], split == "train").prefetch(2)


def bag_of_pairs(hp, tokens, mask):
    """Tokens and mask (B, T) to the sum of the embeddings of their different pairs of neighbours (B, pair embedding).

    fastText's trick (https://arxiv.org/abs/1607.01759): any two words have a place in one table, by a hash, which
    they share with a few other pairs.
    """
    pairs = 1 + ops.mod(tokens[:, :-1] * 31_337 + tokens[:, 1:] * 7_919, hp["pair_buckets"] - 1)
    pairs = ops.sort(ops.where(mask[:, 1:], pairs, 0), axis=1)  # (B, T - 1), 0 = none
    repeated = ops.pad(ops.equal(pairs[:, 1:], pairs[:, :-1]), ((0, 0), (1, 0)))
    present = ops.expand_dims(ops.logical_and(ops.not_equal(pairs, 0), ops.logical_not(repeated)), -1)
    embedded = layers.Embedding(hp["pair_buckets"], hp["pair_embedding_size"])(pairs)
    embedded = layers.Dropout(hp["pair_dropout"], noise_shape=(None, None, 1))(embedded)
    count = ops.maximum(ops.sum(ops.cast(present, "float32"), axis=1), 1.0)  # (B, 1)
    # Evidence adds up over a review, and so does noise, by the root of the number of pairs. Divided by that root
    # rather than by the number, a long review keeps the surer verdict that it deserves.
    return ops.sum(ops.where(present, embedded, 0.0), axis=1) / ops.sqrt(count)


def build_model(hp):
    """Recurrent layers over a convolution of the words, beside a bag of their pairs; probability of praise (B, 1)."""
    cell = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]

    tokens = keras.Input((None,), dtype="int32", name="tokens")  # (B, T)
    # The last step must have all its words whatever T is, or more padding would move the limits of all steps.
    padded = ops.pad(tokens, ((0, 0), (0, STRIDE - 1)))
    mask = ops.not_equal(padded, 0) if hp["mask"] else ops.ones_like(padded, dtype="bool")  # True = a word
    real = ops.expand_dims(mask, -1)  # (B, T, 1)

    embedded = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"])(padded)  # (B, T, embedding)
    # One draw for all channels of a word: whole words vanish, so that no single one can carry the verdict.
    embedded = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1))(embedded)
    embedded = ops.where(real, embedded, 0.0)
    triples = layers.Conv1D(hp["filters"], 3, padding="same", activation="relu")(embedded)
    # A rectified triple is never below 0, so that 0 in place of padding is never above the maximum of a step.
    hidden_states = layers.MaxPooling1D(STRIDE)(ops.where(real, triples, 0.0))  # (B, S, filters), S = T / STRIDE
    step_mask = mask[:, : 1 - STRIDE : STRIDE]  # (B, S): a step is real if its first word is
    for _ in range(hp["layers"]):
        recurrent = cell(hp["units"], return_sequences=True)
        if hp["bidirectional"]:
            recurrent = layers.Bidirectional(recurrent)
        hidden_states = recurrent(hidden_states, mask=step_mask)  # (B, S, units), or twice as many with two directions
    real_step = ops.expand_dims(step_mask, -1)
    count = ops.maximum(ops.sum(ops.cast(real_step, "float32"), axis=1), 1.0)  # (B, 1), steps, at least 1
    mean = ops.sum(ops.where(real_step, hidden_states, 0.0), axis=1) / count
    # States lie between -1 and 1, so that -1 in place of padding is never above the maximum over the steps.
    maximum = ops.max(ops.where(real_step, hidden_states, -1.0), axis=1)

    features = [mean, maximum]
    if hp["pairs"]:
        features.append(bag_of_pairs(hp, padded, mask))
    features = layers.Dropout(hp["dropout"])(layers.Concatenate()(features))
    probability = layers.Dense(1, activation="sigmoid", name="praise")(features)
    model = keras.Model(tokens, probability, name="sentiment")

    steps = max(10, hp["epochs"] * min(hp["examples"], TRAINING_REVIEWS) // hp["batch_size"])
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=hp["learning_rate"],
        warmup_steps=steps // 10,
        decay_steps=steps - steps // 10,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"]),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("fit", examples=min(hp["examples"], TRAINING_REVIEWS)),
        verbose=0,
        shuffle=False,
    )
    return model


def evaluate(model, hp):
    """Accuracy on the test reviews, the baseline's beside it, and the validation reviews' that flatters."""
    accuracy = model.evaluate(load_data(hp, "test"), return_dict=True, verbose=0)["accuracy"]
    validation_accuracy = model.evaluate(load_data(hp, "validation"), return_dict=True, verbose=0)["accuracy"]

    texts, labels = read(hp, "train")
    test_texts, test_labels = read(hp, "test")
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform(tf.strings.reduce_join(split_words(texts), axis=1, separator=" ").numpy())
    test_features = vectorizer.transform(tf.strings.reduce_join(split_words(test_texts), axis=1, separator=" ").numpy())
    # C of 3, 10 and 30 lie within a point of each other on the validation reviews.
    baseline = LogisticRegression(C=10.0, solver="liblinear").fit(features, labels.numpy())
    return {
        "accuracy": accuracy,
        "tfidf_accuracy": baseline.score(test_features, test_labels.numpy()),
        "validation_accuracy": validation_accuracy,
        "validation_minus_test": validation_accuracy - accuracy,
    }


def assets(hp):
    """The vocabulary, one word a line, as `classify` wants it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp))}


def classify(model, texts, words):
    """Returns the probability of praise for each of `texts`, (N,); words: the lines of vocabulary.txt."""
    return model.predict(encode(texts, words).to_tensor(), verbose=0)[:, 0]


def classify_while_reading(model, texts, words):
    """Returns for each text its words, and the probability of praise after the first, the second, ...: pairs of (T,).

    All beginnings of all texts are one padded batch: only with a mask does that change nothing.
    """
    split = [row.numpy() for row in split_words(texts)]
    beginnings = [b" ".join(row[: end + 1]) for row in split for end in range(len(row))]
    probabilities = classify(model, beginnings, words)
    ends = np.cumsum([len(row) for row in split])
    return list(zip(split, np.split(probabilities, ends[:-1])))


def draw_reading(readings):
    """One row a review: the probability of praise along its words.

    readings: list of (words (T,), probabilities (T,), label).
    """
    picture = Figure(figsize=(14, 3.2 * len(readings)), layout="constrained", dpi=120)
    colours = matplotlib.colormaps["RdYlBu"]
    for axes, (words, probabilities, label) in zip(picture.subplots(len(readings), squeeze=False)[:, 0], readings):
        steps = np.arange(len(words))
        axes.axhline(0.5, color="#cbd5e1", linewidth=1)
        axes.plot(steps, probabilities, color="#475569", linewidth=1)
        axes.scatter(steps, probabilities, color=colours(probabilities), edgecolors="#475569", zorder=2)
        axes.set_xticks(steps, [word.decode() for word in words], rotation=90)
        for tick, probability in zip(axes.get_xticklabels(), probabilities):
            tick.set_bbox({"facecolor": colours(probability), "edgecolor": "none", "pad": 1.5, "alpha": 0.6})
        axes.set(
            xlim=(-1, len(words)),
            ylim=(-0.05, 1.05),
            ylabel="probability of praise",
            title=f"a review that {'praises' if label else 'pans'}",
        )
        axes.spines[["top", "right"]].set_visible(False)
    return picture


def show(model, hp):
    """How the verdict on three validation reviews changes word by word, and the verdict on a few sentences."""
    words = vocabulary(hp)
    texts, labels = (array.numpy() for array in read(hp, "validation"))
    lengths = split_words(texts).row_lengths().numpy()
    short = np.argsort(lengths, kind="stable")[:20]
    readings = zip(classify_while_reading(model, texts[short], words), labels[short])
    readings = [(spoken, probabilities, label) for (spoken, probabilities), label in readings]
    # The three of the twenty shortest in which the probability moves most.
    readings.sort(key=lambda reading: -np.abs(np.diff(reading[1])).sum())
    sentences = [
        "A wonderful film.",
        "Not a wonderful film.",
        "A film that is anything but wonderful.",
        "I was bored.",
        "I was never bored.",
        "The actors are great, but the story is a mess.",
        "The story is a mess, but the actors are great.",
        "I expected to hate it, and I was wrong.",
    ]
    lines = [f"{p:.2f}  {sentence}" for p, sentence in zip(classify(model, sentences, words), sentences)]
    return {"reading": draw_reading(readings[:3]), "sentences": "Probability of praise\n" + "\n".join(lines)}


if __name__ == "__main__":
    runner.run(__spec__.name)
