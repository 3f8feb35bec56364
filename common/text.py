"""Text in and out of encoder-decoders: pieces of words, and what teacher forcing reads."""

import tensorflow as tf
import tokenizers

SPECIAL = ("<padding>", "<start>", "<end>", "<unknown>")  # Tokens 0 to 3.


def byte_pair_tokenizer(texts, vocabulary_size, special=SPECIAL, lowercase=False):
    """Trains a vocabulary of pieces of words (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909).

    Spaces are part of a word's first piece and punctuation stands alone, so that decoding gives the text back exactly.

    texts: an iterable of str.
    special: pieces that are tokens of their own, the first ones of the vocabulary. `SPECIAL[3]` stands for a character
        that `texts` never show.

    Returns:
        A `tokenizers.Tokenizer`, which `to_str` and `Tokenizer.from_str` write and read.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL[3]))
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def shift_right(target, start):
    """What a decoder reads in training to write `target`: the same tokens one place later, after `start`.

    target: (B, T) int32, 0 = padding on the right.

    Returns:
        The decoder's input (B, T), and the weights (B, T) float32 of its loss: 1 on real tokens, 0 on padding.
    """
    mask = tf.not_equal(target, 0)
    shifted = tf.concat([tf.fill((tf.shape(target)[0], 1), start), target[:, :-1]], axis=1)
    return tf.where(mask, shifted, 0), tf.cast(mask, tf.float32)
