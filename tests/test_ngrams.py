"""`common.ngrams` is a distribution over characters, and learns from what it has read."""

import string

import numpy as np

from common import ngrams

VOCABULARY = string.ascii_lowercase + " ,:"


def test_probabilities_of_n_grams_add_up_to_one_and_do_not_look_ahead():
    train_text, text = "to be, or not to be: that is the question", "to see, or not to s"
    texts = [text + character for character in VOCABULARY]
    nats = np.array(ngrams.ngram_surprisal(train_text, texts, len(VOCABULARY)))
    np.testing.assert_allclose(np.exp(-nats[:, -1]).sum(), 1)
    np.testing.assert_array_equal(nats[:, :-1], np.tile(nats[0, :-1], (len(nats), 1)))
    assert nats[:, -1].argmin() == VOCABULARY.index("e")  # As in "see", which only `text` has.
    fixed = np.array(ngrams.ngram_surprisal(train_text, texts, len(VOCABULARY), adaptive=False))
    np.testing.assert_allclose(np.exp(-fixed[:, -1]).sum(), 1)
    assert fixed[0, 0] == nats[0, 0] and fixed[:, -1].argmin() != VOCABULARY.index("e")


def test_n_grams_forget_each_text_before_the_next():
    train_text, texts = "to be, or not to be", ["zz zz", "to be", "zz zz"]
    together = ngrams.ngram_surprisal(train_text, texts, len(VOCABULARY))
    alone = [ngrams.ngram_surprisal(train_text, [text], len(VOCABULARY))[0] for text in texts]
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found, expected)


def test_between_two_neighbours_stands_what_stood_there_or_what_goes_with_both():
    seen = [[1, 5, 2], [1, 6, 3], [4, 7, 3], [4, 8, 3], [9, 7, 2], [9, 5, 2], [8] * 20]
    seen += [[1, 7, 9], [4, 7, 3]] * 3  # Apart from each other, 1 and 3 rather go with 7 than with 6.
    text = np.concatenate(seen).astype("int32")
    left, right = np.array([1, 1, 4, 0]), np.array([2, 3, 2, 0])
    guesses = ngrams.likeliest_between(text, left, right, 10, smoothing=0.1, mixing=0.5)
    # 4 is followed by 7 and 8, 2 comes after 5 and 7, but never after both; of unknown neighbours, nothing can be said.
    assert guesses.tolist() == [5, 6, 7, 8]
    assert np.bincount(text).argmax() == 8


def test_tokens_with_the_same_neighbours_get_similar_vectors():
    draw = np.random.default_rng(0)
    # After 1 or 2 comes 3, after 4 or 5 comes 6; 7 follows any of these, and 0 does not occur.
    pairs = [draw.choice([[1, 3, 7], [2, 3, 7], [4, 6, 7], [5, 6, 7]]) for _ in range(2_000)]
    vectors = ngrams.count_vectors(np.concatenate(pairs), 8, 4, window=2)
    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.shape == (8, 4) and lengths[0] < 1e-6 and np.isclose(np.mean(lengths**2), 1)
    cosines = (vectors[1:] @ vectors[1:].T) / np.outer(lengths[1:], lengths[1:])
    assert cosines[0, 1] > 0.9 and cosines[3, 4] > 0.9 and cosines[0, 3] < 0.5


def test_vectors_by_counting_factorize_the_positive_information_of_pairs():
    tokens, window = np.random.default_rng(0).choice(6, 300, p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]), 3
    counts = np.zeros((6, 6))
    for place, token in enumerate(tokens):
        for other in (*tokens[max(0, place - window) : place], *tokens[place + 1 : place + 1 + window]):
            counts[token, other] += 1
    context = counts.sum(axis=0) ** 0.75
    chance = counts.sum(axis=1, keepdims=True) * context / context.sum()
    positive = np.log(np.maximum(counts, chance) / chance)  # 0 where a pair is rarer than by chance.
    left, strengths, _ = np.linalg.svd(positive)
    expected = (left * strengths) @ left.T
    vectors = ngrams.count_vectors(tokens, 6, 6, window)
    np.testing.assert_allclose(vectors @ vectors.T, 6 * expected / np.trace(expected), atol=1e-6)
