"""A bidirectional LSTM, combined with a bag of word pairs, classifies movie reviews as positive or negative.

Result    accuracy 0.9038 ± 0.0010 over 3 seeds, 6.2 minutes a run (5.0 CPU minutes) on 1 core
Baseline  logistic regression on TF-IDF features of words and word pairs; the network does not beat it
Published 0.9056, fastText with word pairs, which the network does not reach:
          https://github.com/keras-team/keras/blob/2.3.1/examples/imdb_fasttext.py
Paper     Zhou, Sun, Liu, Lau: A C-LSTM Neural Network for Text Classification, 2015, https://arxiv.org/abs/1511.08630.
          Here the LSTM is bidirectional, its inputs are max-pooled over four words, its states are pooled over time
          (Johnson, Zhang 2016, https://arxiv.org/abs/1602.02373), and word pairs are added.
Answers   Does the network beat a bag of words? No: accuracy 0.904, but 0.907 with TF-IDF.
          Do word pairs help? Yes: accuracy 0.904, but 0.891 without them.
          What does padding without a mask cost? not measured yet
          How much time do batches of reviews of similar length save? not measured yet

    python -m recipes.recurrent.sentiment
    python -m recipes.recurrent.sentiment --try "A film that is anything but wonderful."
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import feature_extraction, linear_model, pipeline

from common.callbacks import OneCycle
from common.data import bucket
from common.plots import heat_map, new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"name": "TF-IDF and logistic regression", "metric": "tfidf_accuracy"},
    "published": {"value": 0.9056, "source": "keras imdb_fasttext.py, words and pairs"},
    "data": ["imdb_reviews"],
    "answers": {
        "Does the network beat a bag of words?": "No: accuracy {accuracy:.3f}, but {tfidf_accuracy:.3f} with TF-IDF.",
        "Do word pairs help?": "Yes: accuracy {accuracy:.3f}, but {recurrent layers alone/accuracy:.3f} without them.",
        "What does padding without a mask cost?": "not measured yet",
        "How much time do batches of reviews of similar length save?": "not measured yet",
    },
}
TINY = {"examples": 70, "epochs": 2, "length": 100, "vocabulary_size": 1_000, "pair_buckets": 4_096}
VARIANTS = {
    "recurrent layers alone": {"pairs": False},
    "mask off": {"mask": False},
    "bucketing off": {"bucketing": False},
    "mask and bucketing off": {"mask": False, "bucketing": False},  # More than half of a batch is then padding.
}
PINNED = ("bucketing",)  # Without it, a trial takes twice as long.
# Training and validation reviews share films, which test reviews do not: validation accuracy is too optimistic.
SPLITS = {"train": "train[:22500]", "validation": "train[22500:]", "test": "test"}

STRIDE = 4  # Words per time step of the recurrent layers.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 25_000, default=25_000)  # Reviews read from each split, at most.
    hp.Int("epochs", 1, 12, default=3)
    hp.Choice("batch_size", [32, 64, 128], default=64)
    hp.Int("vocabulary_size", 1_000, 50_000, step=1_000, default=20_000)  # The words that occur 9 times or more.
    hp.Int("length", 100, 1_000, step=100, default=800)  # Longer reviews are cut to their last words.
    hp.Boolean("bucketing", default=True)  # Batches of reviews of similar length contain little padding.
    hp.Boolean("mask", default=True)  # False processes padding like words, a mistake whose cost a variant measures.
    hp.Choice("cell", ["simple", "lstm", "gru"], default="lstm")
    hp.Boolean("bidirectional", default=True)
    hp.Int("layers", 1, 3, default=1)
    hp.Choice("units", [32, 64, 96, 128], default=64)  # Per direction.
    hp.Choice("embedding_size", [32, 64, 96, 128], default=64)
    hp.Choice("filters", [64, 128, 256], default=128)  # Of the convolution over three words.
    hp.Boolean("pairs", default=True)  # False leaves the classification to the recurrent layers alone.
    hp.Choice("pair_buckets", [2**12, 2**16, 2**18, 2**19, 2**20], default=2**19)  # Rows of the embedding of pairs.
    hp.Choice("pair_embedding_size", [4, 8, 16, 32], default=16)
    hp.Float("word_dropout", 0.0, 0.7, default=0.3)  # Share of words dropped as a whole.
    hp.Float("pair_dropout", 0.0, 0.7, default=0.5)  # Share of word pairs dropped as a whole.
    hp.Float("dropout", 0.0, 0.7, default=0.5)  # Before the output layer.
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Convolution and recurrent layers beside a bag of word pairs: tokens (B, T) to P(positive) (B, 1)."""
    cell = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[hp["cell"]]
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    # The last time step must be complete for any T, so that more padding never changes the result.
    padded = ops.pad(tokens, ((0, 0), (0, STRIDE - 1)))
    mask = ops.not_equal(padded, 0) if hp["mask"] else ops.ones_like(padded, dtype="bool")  # True = a word
    real = mask[..., None]  # (B, T, 1)

    embedded = layers.Embedding(hp["vocabulary_size"], hp["embedding_size"])(padded)  # (B, T, embedding)
    # The noise is shared by all channels, so that whole words are dropped and the model relies on no single one.
    embedded = layers.Dropout(hp["word_dropout"], noise_shape=(None, None, 1))(embedded)
    embedded = ops.where(real, embedded, 0.0)
    triples = layers.Conv1D(hp["filters"], 3, padding="same", activation="relu")(embedded)
    # Outputs of a ReLU are at least 0, so zeros in place of padding never change the maximum.
    hidden_states = layers.MaxPooling1D(STRIDE)(ops.where(real, triples, 0.0))  # (B, S, filters), S = T / STRIDE
    step_mask = mask[:, : 1 - STRIDE : STRIDE]  # (B, S): a time step is real if its first word is.
    for _ in range(hp["layers"]):
        recurrent = cell(hp["units"], return_sequences=True)
        recurrent = layers.Bidirectional(recurrent) if hp["bidirectional"] else recurrent
        hidden_states = recurrent(hidden_states, mask=step_mask)  # (B, S, units), twice as many if bidirectional
    mean = layers.GlobalAveragePooling1D()(hidden_states, mask=step_mask)
    # States are between -1 and 1, so -1 in place of padding never changes the maximum.
    maximum = ops.max(ops.where(step_mask[..., None], hidden_states, -1.0), axis=1)

    pairs = [bag_of_pairs(hp, padded, mask)] if hp["pairs"] else []
    features = layers.Dropout(hp["dropout"])(layers.Concatenate()([mean, maximum, *pairs]))
    probability = layers.Dense(1, activation="sigmoid", name="probability")(features)
    model = keras.Model(tokens, probability, name="sentiment")
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"])
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], steps_per_execution=16)
    return model


def bag_of_pairs(hp, tokens, mask):
    """Tokens and mask (B, T) to the scaled sum of the embeddings of their distinct word pairs (B, pair embedding).

    As in fastText (https://arxiv.org/abs/1607.01759), a hash maps every pair of adjacent words to a row.
    """
    pairs = 1 + ops.mod(tokens[:, :-1] * 31_337 + tokens[:, 1:] * 7_919, hp["pair_buckets"] - 1)
    pairs = ops.sort(ops.where(mask[:, 1:], pairs, 0), axis=1)  # (B, T - 1), 0 = none
    present = ops.not_equal(pairs, ops.pad(pairs[:, :-1], ((0, 0), (1, 0))))[..., None]  # Each pair counts once.
    embedded = layers.Embedding(hp["pair_buckets"], hp["pair_embedding_size"])(pairs)
    embedded = layers.Dropout(hp["pair_dropout"], noise_shape=(None, None, 1))(embedded)
    count = ops.maximum(ops.sum(ops.cast(present, "float32"), axis=1), 1.0)  # (B, 1)
    # Unlike a mean, a sum divided by the root of the count grows with the evidence, which is stronger in long reviews.
    return ops.sum(ops.where(present, embedded, 0.0), axis=1) / ops.sqrt(count)


@functools.cache
def read(split, examples):
    """The split's reviews (N,), bytes, and their labels (N,), 1 = positive."""
    reviews = tfds.load("imdb_reviews", split=SPLITS[split], as_supervised=True).take(examples)
    texts, labels = reviews.batch(examples).get_single_element()
    return texts.numpy(), labels.numpy()


def clean(texts):
    """Lower-case texts (N,), whose words consist of a-z, 0-9 and ', with ! and ? as separate words."""
    texts = tf.strings.regex_replace(tf.strings.lower(texts), r"<br />|[^a-z0-9'!?]", " ")
    return tf.strings.regex_replace(texts, r"[!?]", r" \0 ")


@functools.cache
def vocabulary(examples, size):
    """The most frequent words of the training reviews, a list of str: word i is token i + 2."""
    words, _, counts = tf.unique_with_counts(tf.strings.split(clean(read("train", examples)[0])).values)
    most_frequent = np.argsort(-counts.numpy(), kind="stable")[: size - 2]
    return [word.decode() for word in words.numpy()[most_frequent]]


def encode(texts, assets):
    """The tokens of each text's last words, ragged (N, words of each) int32; 1 = a word not in the vocabulary."""
    words, length = assets["vocabulary.txt"].split("\n"), int(assets["length.txt"])
    tokens = layers.TextVectorization(standardize=clean, vocabulary=words, ragged=True)(texts)
    return tf.cast(tokens[:, -length:], tf.int32)


def load_data(hp, split):
    """Batches of tokens (B, T), int32, 0 = padding on the right, and labels (B,), 1 = positive."""
    texts, labels = read(split, hp["examples"])
    tokens = encode(texts, assets(hp))
    lengths = tokens.row_lengths().numpy()
    # Eight buckets of equally many reviews.
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
        shuffle=False,  # `load_data` shuffles.
    )
    return model


def evaluate(model, hp):
    """Accuracy of the network and of the baseline on the test reviews, and of the network on the validation reviews."""
    accuracy, on_validation = (model.evaluate(load_data(hp, split), verbose=0)[1] for split in ("test", "validation"))
    baseline = pipeline.make_pipeline(
        feature_extraction.text.TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        linear_model.LogisticRegression(C=10.0, solver="liblinear"),  # 3 and 30: within a point on validation.
    )
    (texts, labels), (test_texts, test_labels) = (read(split, hp["examples"]) for split in ("train", "test"))
    baseline.fit(clean(texts).numpy(), labels)
    return {
        "accuracy": accuracy,
        "tfidf_accuracy": baseline.score(clean(test_texts).numpy(), test_labels),
        "validation_accuracy": on_validation,
        "validation_minus_test": on_validation - accuracy,
    }


def predict(model, assets, inputs):
    """Classifies every review of `inputs`: "positive (0.93)" or "negative (0.88)", with the estimated probability.

    Longer reviews are cut to their last words, as in training. Raises ValueError for a review without a single word.

        model = keras.models.load_model("model.keras")
        assets = {name: open(name).read() for name in ("vocabulary.txt", "length.txt")}
        predict(model, assets, ["A film that is anything but wonderful."])
    """
    tokens = encode(inputs, assets)
    if not all(tokens.row_lengths()):
        raise ValueError("an input contains no words: expected the text of a review")
    probabilities = model.predict(tokens.to_tensor(), verbose=0)[:, 0]
    return [f"positive ({p:.2f})" if p > 0.5 else f"negative ({1 - p:.2f})" for p in probabilities]


def assets(hp):
    """The vocabulary, one word per line, and the number of words that a review is cut to."""
    words = vocabulary(hp["examples"], hp["vocabulary_size"])
    return {"vocabulary.txt": "\n".join(words), "length.txt": str(hp["length"])}


def show(model, hp):
    """The probability that a sentence is positive, word by word, for four sentences."""
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
        probabilities = model.predict(encode(beginnings, assets(hp)).to_tensor(), verbose=0)[:, 0]
        columns = [f"{word}\n{probability:.2f}" for word, probability in zip(words, probabilities)]
        heat_map(ax, [probabilities], rows=["P(positive)"], columns=columns, colours="RdYlBu")
    return {"reading": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
