"""Subwords, what teacher forcing reads, the nearest text, and features of pairs."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from common.text import (
    SPECIAL,
    byte_pair_tokenizer,
    compare,
    nearest,
    shift_right,
    teacher_forcing,
    tokens_of,
)

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


def test_tokens_are_cut_on_either_side_before_the_end_token():
    tokenizer = byte_pair_tokenizer(TEXTS, 80)
    whole = [line.ids for line in tokenizer.encode_batch(TEXTS[:3])]
    assert tokens_of(tokenizer, TEXTS[:3]).to_list() == whole
    assert tokens_of(tokenizer, TEXTS[:3], slice(4), [2]).to_list() == [[*ids[:4], 2] for ids in whole]
    assert tokens_of(tokenizer, TEXTS[:3], slice(-5, None)).to_list() == [ids[-5:] for ids in whole]
    assert tokens_of(tokenizer, [""], end=[2]).to_list() == [[2]]


def test_teacher_forcing_covers_every_example_once_and_weighs_every_token_alike():
    generator = np.random.default_rng(0)
    sources = [list(generator.integers(3, 9, size=length)) for length in generator.integers(1, 12, size=50)]
    targets = [[*generator.integers(3, 9, size=length), 2] for length in generator.integers(1, 9, size=50)]
    ragged = [tf.ragged.constant(texts, tf.int32) for texts in (sources, targets)]
    batches = list(teacher_forcing(*ragged, START, [[4, 8], [3, 6]], batch_size=4))
    pairs, weights = [], set()
    for (source, shifted), target, weight in batches:
        pairs += [tuple([*map(int, row[row != 0])] for row in both) for both in zip(source.numpy(), target.numpy())]
        np.testing.assert_array_equal(shifted, shift_right(target, START)[0])
        np.testing.assert_array_equal(weight > 0, target != 0)
        weights |= set(weight.numpy()[target.numpy() != 0])
        lengths = (target.numpy() != 0).sum(axis=1)
        assert sum(lengths.min() >= edge for edge in (3, 6)) == sum(lengths.max() >= edge for edge in (3, 6))
    assert sorted(pairs) == sorted(zip(sources, targets))
    assert weights == {np.float32(1 / (4 * np.mean([len(target) for target in targets])))}


def test_the_nearest_texts_share_the_rarest_words_whatever_the_number_of_texts():
    known = ["a dog runs", "a cat sleeps", "a man rides a horse", "a dog sleeps"]
    assert nearest(TfidfVectorizer(), known, ["the dog sleeps", "two cat", "horse and man"], 1).tolist() == [
        [3],
        [1],
        [2],
    ]
    assert nearest(TfidfVectorizer(), known, known * 60, 1).ravel().tolist() == [0, 1, 2, 3] * 60
    found = nearest(TfidfVectorizer(), known, ["the dog sleeps", "a man sleeps"], 3)
    assert [set(row) for row in found] == [{0, 1, 3}, {1, 2, 3}]


def test_pairs_are_compared_by_what_differs_and_by_what_is_common():
    first, second = csr_matrix([[1.0, 2.0, 0.0]]), csr_matrix([[0.0, 3.0, 4.0]])
    expected = [[1.0, 1.0, 4.0, 0.0, 2.0, 0.0, 6.0]]
    assert compare(first, second).toarray().tolist() == compare(second, first).toarray().tolist() == expected
