"""Text for networks: subwords, batches for teacher forcing; the nearest texts and features of pairs for baselines."""

import numpy as np
import tensorflow as tf
import tokenizers
from scipy import sparse

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
