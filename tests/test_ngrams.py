"""`common.ngrams` is a distribution over characters, and learns from what it has read."""

import string

import numpy as np

from common import ngrams

VOCABULARY = string.ascii_lowercase + " ,:"


def test_probabilities_of_n_grams_add_up_to_one_and_do_not_look_ahead():
    train_text, text = "to be, or not to be: that is the question", "to see, or not to s"
    texts = [text + character for character in VOCABULARY]
    nats = np.array([ngrams.ngram_surprisal(train_text, each, len(VOCABULARY)) for each in texts])
    np.testing.assert_allclose(np.exp(-nats[:, -1]).sum(), 1)
    np.testing.assert_array_equal(nats[:, :-1], np.tile(nats[0, :-1], (len(nats), 1)))
    assert nats[:, -1].argmin() == VOCABULARY.index("e")  # As in "see", which only `text` has.
