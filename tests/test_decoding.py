"""`common.decoding` on toy models whose every text can be written out."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common import decoding

VOCABULARY, LENGTH, END = 4, 4, 2


def toy(batch, seed=0):
    """A model whose log-probabilities depend on row, position and the last token; states: row and position."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(batch, LENGTH, VOCABULARY, VOCABULARY)).astype("float32") * 2
    table = tf.nn.log_softmax(logits)

    def step(tokens, states):
        row, position = states
        indices = tf.stack([row, position, tokens], axis=1)
        return tf.gather_nd(table, indices), [row, position + 1]

    return table.numpy(), step, [tf.range(batch), tf.zeros(batch, tf.int32)]


def every_text(table, end_token, length_penalty):
    """All texts with their scores, the best first, by plain enumeration."""
    scored = {}
    for text in itertools.product(range(VOCABULARY), repeat=LENGTH):
        total, last, written = 0.0, 1, []
        for position, token in enumerate(text):
            total += table[position, last, token]
            written.append(token)
            last = token
            if token == end_token:
                break
        score = total / ((5 + len(written)) / 6) ** length_penalty
        scored[tuple(written + [0] * (LENGTH - len(written)))] = score
    return sorted(scored.items(), key=lambda each: -each[1])


@pytest.mark.parametrize("end_token", [END, None])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_a_wide_beam_is_exhaustive_search(end_token, length_penalty):
    table, step, states = toy(batch=3)
    texts, scores = decoding.beam_search(
        step, tf.ones(3, tf.int32), states, LENGTH, VOCABULARY**LENGTH, end_token, length_penalty
    )
    for row in range(3):
        expected = every_text(table[row], end_token, length_penalty)[:40]
        np.testing.assert_allclose(scores[row][:40], [score for _, score in expected], rtol=1e-5)
        assert [tuple(text) for text in texts[row][:40].numpy()] == [text for text, _ in expected]


def test_greedy_takes_the_likeliest_token_at_every_step():
    table, step, states = toy(batch=5, seed=1)
    texts = decoding.greedy(step, tf.ones(5, tf.int32), states, LENGTH, END).numpy()
    for row in range(5):
        last, expected = 1, []
        for position in range(LENGTH):
            last = int(table[row, position, last].argmax())
            expected.append(last)
            if last == END:
                break
        assert texts[row].tolist() == expected + [0] * (LENGTH - len(expected))


def test_a_row_s_texts_do_not_depend_on_the_batch():
    _, step, states = toy(batch=4)
    together, _ = decoding.beam_search(step, tf.ones(4, tf.int32), states, LENGTH, 3, END)
    for row in range(4):
        alone, _ = decoding.beam_search(
            step, tf.ones(1, tf.int32), [state[row : row + 1] for state in states], LENGTH, 3, END
        )
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_draws_from_the_distribution(temperature):
    table, step, _ = toy(batch=1)
    rows = 20_000
    states = [tf.zeros(rows, tf.int32), tf.zeros(rows, tf.int32)]
    drawn = decoding.sample(step, tf.ones(rows, tf.int32), states, LENGTH, temperature).numpy()
    expected = np.exp(table[0, 0, 1] / temperature)
    expected /= expected.sum()
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=VOCABULARY) / rows, expected, atol=0.015)
    after = drawn[drawn[:, 0] == 3, 1]
    expected = np.exp(table[0, 1, 3] / temperature)
    np.testing.assert_allclose(np.bincount(after, minlength=4) / len(after), expected / expected.sum(), atol=0.04)
    again = decoding.sample(step, tf.ones(rows, tf.int32), states, LENGTH, temperature).numpy()
    np.testing.assert_array_equal(drawn, again)
