"""`common.decoding` on toy models whose every text can be written out."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

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


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_beam_of_one_is_greedy_and_its_size_may_be_a_tensor(alpha):
    _, step, states = toy(batch=5, seed=1)
    greedy = decoding.greedy(step, tf.ones(5, tf.int32), states, LENGTH, END)
    for beam_size in (1, tf.constant(1)):
        texts, _ = decoding.beam_search(step, tf.ones(5, tf.int32), states, LENGTH, beam_size, END, alpha)
        np.testing.assert_array_equal(texts[:, 0], greedy)


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


def encoder_decoder(vocabulary_size=5, units=4):
    """With random weights, and two recurrent layers in its decoder, on both sides of the attention."""
    keras.utils.set_random_seed(12)
    source, shifted = (keras.Input((None,), dtype="int32") for _ in range(2))
    embedding = layers.Embedding(vocabulary_size, units, keras.initializers.RandomNormal(stddev=2.0))
    recurrent = {"return_sequences": True, "return_state": True}
    mask = ops.not_equal(source, 0)
    outputs, last = layers.GRU(units, **recurrent)(embedding(source), mask=mask)
    memory = layers.Dense(units, name="memory")(outputs)
    first, second = (layers.Dense(units, name=f"{name}_state")(last) for name in ("query", "answer"))
    query, _ = layers.GRU(units, **recurrent, name="query")(embedding(shifted), initial_state=first)
    context = layers.Attention(name="attention")([query, memory], mask=[None, mask])
    both = ops.concatenate([query, context], axis=-1)
    answer, _ = layers.GRU(units, **recurrent, name="answer")(both, initial_state=second)
    unlike = keras.initializers.RandomNormal(stddev=1.0)
    logits = layers.Dense(vocabulary_size, kernel_initializer=unlike, name="logits")(answer)
    return keras.Model([source, shifted], ops.multiply(logits, 2.0))


SOURCE = np.array([[3, 4, 2, 0, 0], [4, 3, 3, 4, 2], [2, 0, 0, 0, 0]], "int32")


def teacher_forced(model, texts):
    """The log-probabilities (N, T, V) of every next token of the texts (N, T) after `SOURCE`, as in training."""
    shifted = np.concatenate([np.ones((len(texts), 1), "int32"), texts[:, :-1]], axis=1)
    sources = np.repeat(SOURCE, len(texts) // len(SOURCE), axis=0)
    return tf.nn.log_softmax(model([sources, shifted])).numpy()


def test_an_encoder_decoder_writes_what_teacher_forcing_calls_likeliest():
    model = encoder_decoder()
    decode = decoding.decoder(model, 1, END, LENGTH, alpha=0.7)
    greedy, best = decode(SOURCE), decode(SOURCE, beam_size=200)
    over = np.cumsum(greedy == END, axis=1) - (greedy == END) > 0
    np.testing.assert_array_equal(np.where(over, 0, teacher_forced(model, greedy).argmax(axis=-1)), greedy)

    every = np.array(list(itertools.product(range(5), repeat=LENGTH)), "int32")
    over = np.cumsum(every == END, axis=1) - (every == END) > 0
    every, first = np.unique(np.where(over, 0, every), axis=0, return_index=True)
    over = over[first]
    found = teacher_forced(model, np.tile(every, (3, 1))).reshape(3, *every.shape, 5)
    found = np.take_along_axis(found, every[None, ..., None], axis=-1)[..., 0]
    scores = np.where(over, 0.0, found).sum(axis=-1) / ((5 + (~over).sum(axis=-1)) / 6) ** 0.7  # (3, texts)
    np.testing.assert_array_equal(best, every[scores.argmax(axis=1)])
    assert len(np.unique(best, axis=0)) > 1 and (greedy != best).any()
    assert decode is decoding.decoder(model, 1, END, LENGTH, alpha=0.7), "traced again for the same model"


def test_an_encoder_decoder_may_have_its_own_log_probabilities():
    model = encoder_decoder()

    def from_layers(source, outputs):
        assert set(outputs) == {"logits", "attention"}
        assert source.shape.rank == 2 and outputs["attention"].shape[1:] == (1, 4)
        return tf.nn.log_softmax(2.0 * outputs["logits"][:, 0]) + 0.0 * tf.cast(source[:, :1], tf.float32)

    names = ("logits", "attention", "absent")
    own = decoding.decoder(model, 1, END, LENGTH, outputs=names, log_probabilities=from_layers)
    found = [own(SOURCE, beam_size) for beam_size in (1, 3)]
    for beam_size, texts in zip((1, 3), found):
        np.testing.assert_array_equal(texts, decoding.decoder(model, 1, END, LENGTH)(SOURCE, beam_size))


def remembering(batch):
    """A model whose log-probabilities depend on all tokens before; its state is their number in base VOCABULARY."""
    generator = np.random.default_rng(3)
    table = tf.nn.log_softmax(generator.normal(size=(batch, (VOCABULARY + 1) ** LENGTH, VOCABULARY)) * 2)
    table = tf.cast(table, tf.float32)

    def step(tokens, states):
        row, before = states
        before = before * (VOCABULARY + 1) + tokens  # As digits, of which 0 is not the first.
        return tf.gather_nd(table, tf.stack([row, before], axis=1)), [row, before]

    return table.numpy(), step, [tf.range(batch), tf.zeros(batch, tf.int32)]


def test_a_beam_takes_its_state_along():
    table, step, states = remembering(batch=2)
    scored = [{}, {}]
    for row in range(2):
        for text in itertools.product(range(VOCABULARY), repeat=LENGTH):
            before, total = 0, 0.0
            for last, token in zip((1, *text), text):
                before = before * (VOCABULARY + 1) + last
                total += table[row, before, token]
            scored[row][text] = total
    texts, scores = decoding.beam_search(step, tf.ones(2, tf.int32), states, LENGTH, VOCABULARY**LENGTH)
    written = decoding.greedy(step, tf.ones(2, tf.int32), states, LENGTH).numpy()
    for row in range(2):
        best = sorted(scored[row], key=scored[row].get, reverse=True)[:20]
        assert [tuple(text) for text in texts[row][:20].numpy()] == best
        np.testing.assert_allclose(scores[row][:20], [scored[row][text] for text in best], rtol=1e-5)
        before, last = 0, 1
        for token in written[row]:
            before = before * (VOCABULARY + 1) + last
            assert token == table[row, before].argmax()
            last = token
