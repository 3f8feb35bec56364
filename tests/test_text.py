"""Subwords, and what teacher forcing reads."""

import numpy as np
import pytest
import tensorflow as tf

from common.text import SPECIAL, byte_pair_tokenizer, shift_right

START = 1


def test_shift_right_starts_with_start_and_weighs_real_tokens_alone():
    target = np.array([[5, 6, 2, 0, 0], [7, 2, 0, 0, 0], [4, 5, 6, 7, 2]], "int32")
    shifted, weight = (tensor.numpy() for tensor in shift_right(tf.constant(target), START))
    assert shifted[:, 0].tolist() == [START] * 3
    real = target != 0
    np.testing.assert_array_equal(shifted[:, 1:][real[:, 1:]], target[:, :-1][real[:, 1:]])
    np.testing.assert_array_equal(shifted != 0, real)
    np.testing.assert_array_equal(weight, real.astype("float32"))


TEXTS = ["A man in a blue shirt is standing on a ladder.", "Two dogs run through the snow!", "It's half past ten."] * 9


@pytest.mark.parametrize("lowercase", [False, True])
def test_subwords_give_the_text_back(lowercase):
    tokenizer = byte_pair_tokenizer(TEXTS, 80, lowercase=lowercase)
    lines = tokenizer.encode_batch(TEXTS)
    expected = [text.lower() for text in TEXTS] if lowercase else TEXTS
    assert tokenizer.decode_batch([line.ids for line in lines]) == expected
    assert tokenizer.get_vocab_size() <= 80


def test_special_pieces_come_first_and_stand_for_themselves():
    tokenizer = byte_pair_tokenizer(TEXTS, 60, [*SPECIAL, "<user>"])
    assert [tokenizer.id_to_token(token) for token in range(5)] == [*SPECIAL, "<user>"]
    assert tokenizer.encode("<user>Two dogs").ids[0] == 4
    assert 3 in tokenizer.encode("Ω").ids
