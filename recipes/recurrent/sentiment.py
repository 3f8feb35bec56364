"""A bidirectional LSTM beside a bag of word pairs classifies the reviews of imdb_reviews as positive or negative.

Result    accuracy 0.9038 ± 0.0010 over 3 seeds, 6.2 minutes a run (5.0 of CPU) on 1 core
Baseline  TF-IDF of words and pairs of words with logistic regression, on the same training reviews
Published 0.9056, fastText with pairs of words: https://github.com/keras-team/keras/blob/2.3.1/examples/imdb_fasttext.py
Paper     Zhou, Sun, Liu, Lau: A C-LSTM Neural Network for Text Classification, 2015, https://arxiv.org/abs/1511.08630,
          a convolution over three words before the LSTM. Here each LSTM step reads the maximum of four such triples,
          so that it takes a quarter of the steps; it reads in both directions and is pooled over time (Johnson, Zhang,
          2016, https://arxiv.org/abs/1602.02373), and fastText's bag of pairs is added.
Answers   What does padding do to a recurrent network when the mask is left out? How much faster are batches of reviews
          of similar length? Does word order tell more than word pairs do? By how much does accuracy come out too high
          on a validation set that shares films with the training set?

    python -m recipes.recurrent.sentiment
    python -m recipes.recurrent.sentiment --set cell=gru bidirectional=False
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from common.callbacks import OneCycle
from common.data import bucket
from common.plots import heat_map, new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "published": {"value": 0.9056, "source": "keras imdb_fasttext.py, words and pairs"},
    "data": ["imdb_reviews"],
}
TINY = {"examples": 70, "epochs": 2, "length": 100, "vocabulary_size": 1_000, "pair_buckets": 2**12}
VARIANTS = {
    "recurrent layers alone": {"pairs": False},
    "mask off": {"mask": False},
    "bucketing off": {"bucketing": False},
    "mask and bucketing off": {"mask": False, "bucketing": False},  # Here a batch has more padding than words.
}
PINNED = ("bucketing",)  # Without it, a trial takes twice as long.
# Reviews held out from train share films with it, so accuracy on them is too high; `evaluate` measures by how much.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test"}

STRIDE = 4  # Words per step of the recurrent layers.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # Read from each split at most.
    hp.Int("epochs", 1, 12, default=3)
    hp.Choice("batch_size", [32, 64, 128], default=64)
    hp.Int("vocabulary_size", 1_000, 50_000, step=1_000, default=20_000)  # Room for every word seen 9 times.
    hp.Int("length", 100, 1_000, step=100, default=800)  # Of a longer review, the last words are read.
    hp.Boolean("bucketing", default=True)  # Batches of reviews of similar length, so that little of them is padding.
    hp.Boolean("mask", default=True)  # False reads padding as words: a mistake whose cost a variant measures.
    hp.Choice("cell", ["simple", "lstm", "gru"], default="lstm")
    hp.Boolean("bidirectional", default=True)
    hp.Int("layers", 1, 3, default=1)
    hp.Choice("units", [32, 64, 96, 128], default=64)  # Per direction.
    hp.Choice("embedding_size", [32, 64, 96, 128], default=64)
    hp.Choice("filters", [64, 128, 256], default=128)  # Each over three words.
    hp.Boolean("pairs", default=True)  # False leaves the verdict to the recurrent layers alone.
    hp.Choice("pair_buckets", [2**12, 2**16, 2**18, 2**19, 2**20], default=2**19)  # Rows in the table of pairs.
    hp.Choice("pair_embedding_size", [4, 8, 16, 32], default=16)
    hp.Float("word_dropout", 0.0, 0.7, default=0.3)  # Share of the words that a training step doesn't see.
    hp.Float("pair_dropout", 0.0, 0.7, default=0.5)  # The same for pairs.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Before the output.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Recurrent layers over a convolution of the words, beside a bag of pairs: tokens (B, T) to probability (B, 1)."""
    cell = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    # The last step needs all its words whatever T is, or more padding would shift the borders between steps.
    padded = ops.pad(tokens, ((0, 0), (0, STRIDE - 1)))
    mask = ops.not_equal(padded, 0) if hp["mask"] else ops.ones_like(padded, dtype="bool")  # True = a word
    real = mask[..., None]  # (B, T, 1)

    embedded = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"])(padded)  # (B, T, embedding)
    # One draw for all channels of a word: whole words are dropped, so that no single one can carry the verdict.
    embedded = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1))(embedded)
    embedded = ops.where(real, embedded, 0.0)
    triples = layers.Conv1D(hp["filters"], 3, padding="same", activation="relu")(embedded)
    # After ReLU no triple is below 0, so 0 in place of padding never exceeds the maximum of a step.
    hidden_states = layers.MaxPooling1D(STRIDE)(ops.where(real, triples, 0.0))  # (B, S, filters), S = T / STRIDE
    step_mask = mask[:, : 1 - STRIDE : STRIDE]  # (B, S): a step is real if its first word is
    for _ in range(hp["layers"]):
        recurrent = cell(hp["units"], return_sequences=True)
        if hp["bidirectional"]:
            recurrent = layers.Bidirectional(recurrent)
        hidden_states = recurrent(hidden_states, mask=step_mask)  # (B, S, units), or twice as many with two directions
    real_step = step_mask[..., None]
    count = ops.maximum(ops.sum(ops.cast(real_step, "float32"), axis=1), 1.0)  # (B, 1), steps, at least 1
    mean = ops.sum(ops.where(real_step, hidden_states, 0.0), axis=1) / count
    # States lie between -1 and 1, so -1 in place of padding never exceeds the maximum over the steps.
    maximum = ops.max(ops.where(real_step, hidden_states, -1.0), axis=1)

    pairs = [bag_of_pairs(hp, padded, mask)] if hp["pairs"] else []
    features = layers.Dropout(hp["dropout"])(layers.Concatenate()([mean, maximum, *pairs]))
    probability = layers.Dense(1, activation="sigmoid", name="probability")(features)
    model = keras.Model(tokens, probability, name="sentiment")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"]),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def bag_of_pairs(hp, tokens, mask):
    """Tokens and mask (B, T) to the sum of the embeddings of their distinct pairs of neighbours (B, pair embedding).

    As in fastText (https://arxiv.org/abs/1607.01759), a hash gives each pair a row of the table; a few pairs share one.
    """
    pairs = 1 + ops.mod(tokens[:, :-1] * 31_337 + tokens[:, 1:] * 7_919, hp["pair_buckets"] - 1)
    pairs = ops.sort(ops.where(mask[:, 1:], pairs, 0), axis=1)  # (B, T - 1), 0 = none
    present = ops.not_equal(pairs, ops.pad(pairs[:, :-1], ((0, 0), (1, 0))))[..., None]  # The first of its kind.
    embedded = layers.Embedding(hp["pair_buckets"], hp["pair_embedding_size"])(pairs)
    embedded = layers.Dropout(hp["pair_dropout"], noise_shape=(None, None, 1))(embedded)
    count = ops.maximum(ops.sum(ops.cast(present, "float32"), axis=1), 1.0)  # (B, 1)
    # Evidence adds up over a review, while noise grows with the root of the number of pairs. Divided by that root
    # rather than by the number, a long review keeps the more confident verdict that it deserves.
    return ops.sum(ops.where(present, embedded, 0.0), axis=1) / ops.sqrt(count)


@functools.cache
def read(split, examples):
    """The split's reviews (N,), bytes, and their labels (N,), 1 = positive."""
    reviews = tfds.load("imdb_reviews", split=SPLITS[split], as_supervised=True).take(examples)
    texts, labels = reviews.batch(examples).get_single_element()
    return texts.numpy(), labels.numpy()


def clean(texts):
    """Reduces texts (N,) to what words are made of, a-z, 0-9 and ', and ! and ? as words of their own."""
    texts = tf.strings.regex_replace(tf.strings.lower(texts), r"<br />|[^a-z0-9'!?]", " ")
    return tf.strings.regex_replace(texts, r"[!?]", r" \0 ")


@functools.cache
def vocabulary(examples, size):
    """The commonest words of the training reviews, a list of str: word i has the number i + 2."""
    texts, _ = read("train", examples)
    words, _, counts = tf.unique_with_counts(tf.strings.split(clean(texts)).values)
    commonest = np.argsort(-counts.numpy(), kind="stable")[: size - 2]
    return [word.decode() for word in words.numpy()[commonest]]


def encode(texts, words, length):
    """The numbers of the last `length` words of each text, ragged (N, words of each) int32: 1 = not in `words`."""
    numbers = layers.TextVectorization(standardize=clean, vocabulary=words, ragged=True)(texts)
    return tf.cast(numbers[:, -length:], tf.int32)


def load_data(hp, split):
    """Batches of tokens (B, T), int32, 0 = padding on the right, and labels (B,), 1 = positive."""
    texts, labels = read(split, hp["examples"])
    tokens = encode(texts, vocabulary(hp["examples"], hp["vocabulary_size"]), hp["length"])
    lengths = tokens.row_lengths().numpy()
    # Eight buckets with equally many reviews.
    edges = np.unique(np.quantile(lengths, np.arange(1, 8) / 8).astype(int)) if hp["bucketing"] else []
    batches = bucket((tokens, labels), lengths, edges, hp["batch_size"], split == "train")
    return batches.prefetch(tf.data.AUTOTUNE)


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
    """Accuracy on the test reviews, the baseline's, and the overly optimistic one on the validation reviews."""
    splits = ("test", "validation")
    test, validation = (model.evaluate(load_data(hp, split), return_dict=True, verbose=0) for split in splits)
    # Accuracies with C = 3, 10 and 30 lie within a point of each other on the validation reviews.
    baseline = make_pipeline(
        TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=10.0, solver="liblinear"),
    )
    (texts, labels), (test_texts, test_labels) = (read(split, hp["examples"]) for split in ("train", "test"))
    baseline.fit(clean(texts).numpy(), labels)
    return {
        "accuracy": test["accuracy"],
        "tfidf_accuracy": baseline.score(clean(test_texts).numpy(), test_labels),
        "validation_accuracy": validation["accuracy"],
        "validation_minus_test": validation["accuracy"] - test["accuracy"],
    }


def classify(model, texts, words, length):
    """Returns the probability that each of `texts` is positive, (N,).

    words: the lines of vocabulary.txt; length: the hyperparameter: of a longer text, the last words are read.
    """
    return model.predict(encode(texts, words, length).to_tensor(), verbose=0)[:, 0]


def assets(hp):
    """The vocabulary, one word per line, as `classify` expects it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp["examples"], hp["vocabulary_size"]))}


def show(model, hp):
    """How the verdict on four sentences changes word by word: the probability that the text so far is positive."""
    known = vocabulary(hp["examples"], hp["vocabulary_size"])
    sentences = [
        "The actors are great, but the story is a mess.",
        "The story is a mess, but the actors are great.",
        "A film that is anything but wonderful.",
        "I expected to hate it, and I was wrong.",
    ]
    picture, axes = new(9, 4.5, rows=len(sentences))
    for ax, sentence in zip(axes, sentences):
        words = sentence.split()
        beginnings = [" ".join(words[: end + 1]) for end in range(len(words))]
        probabilities = classify(model, beginnings, known, hp["length"])
        columns = [f"{word}\n{probability:.2f}" for word, probability in zip(words, probabilities)]
        heat_map(ax, [probabilities], rows=["P(positive)"], columns=columns, colours="RdYlBu")
    return {"reading": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
