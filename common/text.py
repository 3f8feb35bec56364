"""Text in and out of encoder-decoders: subwords, and what teacher forcing reads."""

import tensorflow as tf
import tokenizers

SPECIAL = ("<padding>", "<start>", "<end>", "<unknown>")  # Tokens 0 to 3.


def byte_pair_tokenizer(texts, vocabulary_size, special=SPECIAL, lowercase=False):
    """Returns a `tokenizers.Tokenizer` of subwords (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909).

    Spaces are part of a word's first piece and punctuation stands alone, so that decoding gives the text back exactly.

    texts: iterable of str, from which the pieces are learned; `SPECIAL[3]` stands for characters not among them.
    special: pieces that are the first tokens of the vocabulary, whatever the texts.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL[3]))
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    split = [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(split)
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    options = {"vocab_size": vocabulary_size, "special_tokens": list(special), "show_progress": False}
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(**options))
    return tokenizer


def shift_right(target, start):
    """What a decoder reads in training to write `target` (B, T), 0 = padding on the right.

    Returns the same tokens one place later, after `start` (B, T), and weights (B, T): 1 on real tokens, 0 on padding.
    """
    mask = tf.not_equal(target, 0)
    shifted = tf.concat([tf.fill((tf.shape(target)[0], 1), start), target[:, :-1]], axis=1)
    return tf.where(mask, shifted, 0), tf.cast(mask, tf.float32)
