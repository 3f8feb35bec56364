"""Text for encoder-decoders: subwords, batches for teacher forcing; nearest texts and bag of words as baselines."""

import itertools

import keras
import numpy as np
import tensorflow as tf
import tokenizers
from keras import layers
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from common.data import bucket

SPECIAL = ("<padding>", "<start>", "<end>", "<unknown>")  # Tokens 0 to 3.


def byte_pair_tokenizer(texts, vocabulary_size, special=SPECIAL, lowercase=False):
    """Returns a `tokenizers.Tokenizer` of the subwords of `texts` (Sennrich et al. 2016).

    A space belongs to the first subword of its word, and punctuation marks are tokens of their own, so that decoding
    restores the text. `special` tokens come first; the fourth stands for characters that do not occur in the texts.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=special[3]))
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    split = [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(split)
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    options = {"vocab_size": vocabulary_size, "special_tokens": list(special), "show_progress": False}
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(**options))
    return tokenizer


def tokens_of(tokenizer, texts, kept=slice(None), end=()):
    """The tokens of each text, of which the slice `kept` is taken, followed by `end`; ragged: (texts, None) int32."""
    parts = [texts[start : start + 1_000] for start in range(0, len(texts), 1_000)]  # All at once would need gigabytes.
    lines = [np.array([*line.ids[kept], *end], "int32") for part in parts for line in tokenizer.encode_batch(part)]
    return tf.RaggedTensor.from_row_lengths(np.concatenate(lines), [len(line) for line in lines])


def shift_right(target, start):
    """The decoder's input in training: `target` (B, T), 0 = padding, shifted one place to the right, after `start`.

    Returns this (B, T), and weights (B, T): 1 on real tokens, 0 on padding.
    """
    mask = tf.not_equal(target, 0)
    shifted = tf.concat([tf.fill((tf.shape(target)[0], 1), tf.cast(start, target.dtype)), target[:, :-1]], axis=1)
    return tf.where(mask, shifted, 0), tf.cast(mask, tf.float32)


def teacher_forcing(source, target, start, edges, batch_size, shuffled=False):
    """Batches of (source (B, S), shifted target (B, T)), target (B, T), weight (B, T), from ragged sources and targets.

    Within a batch, sources have similar lengths, as do targets; `edges` are those of both, see `bucket`. Weights are 0
    on padding and sum to about 1, for a loss with `reduction="sum"`: a mean over each batch's own tokens would make
    those of short targets count more.
    """
    lengths = [source.row_lengths(), target.row_lengths()]
    tokens_per_batch = batch_size * np.mean(target.row_lengths())

    def shift(source, target):
        shifted, weight = shift_right(target, start)
        return (source, shifted), target, weight / tokens_per_batch

    return bucket((source, target), lengths, edges, batch_size, shuffled).map(shift).prefetch(tf.data.AUTOTUNE)


def nearest(vectorizer, known, texts, count):
    """For each text, the indices of the `count` most similar known texts, in no particular order: (texts, count).

    vectorizer: scikit-learn's, such as a TfidfVectorizer; products of its vectors measure the similarity.
    """
    vectors = vectorizer.fit_transform(known).T.tocsr()
    # All texts at once would need more memory than a laptop has.
    parts = (vectorizer.transform(texts[start : start + 200]) @ vectors for start in range(0, len(texts), 200))
    return np.concatenate([np.argpartition(-part.toarray(), count - 1, axis=1)[:, :count] for part in parts])


def compare(first, second):
    """Features of pairs of texts (N, 2 F + 1), from their TF-IDF: what differs, what is common to both, and how much.

    first, second: (N, F), sparse.
    """
    return sparse.hstack([abs(first - second), first.minimum(second), first.multiply(second).sum(axis=1)], "csr")


def logistic_regression(rows, labels, known_rows, known_labels, strengths, naive_bayes=False, measure=accuracy_score):
    """The logistic regression that is best on the validation rows, `known_rows`, among `strengths`, values of C.

    rows: (N, F) features, such as TF-IDF. labels: (N,), 0 or 1.
    naive_bayes: whether to try each strength a second time with the features scaled by the log-ratio of the numbers of
        rows that have them (Wang, Manning: Baselines and Bigrams, 2012, https://aclanthology.org/P12-2018); `rows` must
        then be sparse. The coefficients returned are for features that are not scaled.
    measure: the score that selects one, a function of labels and predicted labels, such as scikit-learn's. For any
        but accuracy, each strength is also tried with classes that weigh the same in total.
    """
    scaled, weights = [(rows, 1.0)], (None,) if measure is accuracy_score else (None, "balanced")
    if naive_bayes:
        negative, positive = (1 + np.asarray((rows[labels == each] > 0).sum(axis=0)) for each in (0, 1))  # (1, F)
        log_ratio = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
        scaled.append((rows.multiply(log_ratio).tocsr(), log_ratio))
    fitted = []
    for candidates, scale in scaled:
        for strength, weight in itertools.product(strengths, weights):
            regression = LogisticRegression(C=strength, class_weight=weight, solver="liblinear")
            fitted.append(regression.fit(candidates, labels))
            fitted[-1].coef_ *= scale  # Now it applies to rows that are not scaled.
    return max(fitted, key=lambda each: measure(known_labels, each.predict(known_rows)))


def as_network(regression, name):
    """A logistic regression as a Keras model: sparse rows (N, F) to the probabilities of class 1 (N, 1)."""
    rows = keras.Input(regression.coef_.shape[1:], sparse=True)
    model = keras.Model(rows, layers.Dense(1, activation="sigmoid")(rows), name=name)
    model.compile(jit_compile=False)  # Products of sparse rows can't be compiled.
    model.set_weights([regression.coef_.T, regression.intercept_])
    return model
