"""`common.decoding` on toy models whose every text can be written out."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from common import decoding
from common.cookbook import settings
from conftest import decoding_of

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


def transformer(memory=False):
    """A causal network with random weights, of all that `read_on` knows: tokens (B, T) to logits (B, T, V)."""
    keras.utils.set_random_seed(1)
    tokens, mask = (keras.Input((None,), dtype=dtype) for dtype in ("int32", "bool"))
    encoded = keras.Input((None, 8))
    places = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    hidden = sum(
        layers.Embedding(20, 8, keras.initializers.RandomNormal(stddev=1.0))(each) for each in (tokens, places)
    )
    hidden = hidden + layers.Conv1D(8, 3, dilation_rate=2, padding="causal")(hidden)
    for _ in range(2):
        normal = layers.LayerNormalization()(hidden)
        hidden = hidden + layers.MultiHeadAttention(2, 4, value_dim=3)(normal, normal, use_causal_mask=True)
        if memory:
            hidden = hidden + layers.MultiHeadAttention(2, 4)(hidden, encoded, attention_mask=mask[:, None])
    logits = layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))(hidden)
    return keras.Model([tokens, encoded, mask] if memory else tokens, logits)


def memory_inputs(rows):
    generator = np.random.default_rng(4)
    mask = np.arange(6) < generator.integers(1, 6, (rows, 1))
    return [tf.constant(generator.normal(size=(rows, 6, 8)).astype("float32")), tf.constant(mask)]


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("parts", [[12], [1] * 12, [5, 1, 4, 2], [0, 7, 5]])
def test_logits_are_the_same_however_many_tokens_are_read_at_a_time(parts, memory):
    model = transformer(memory)
    tokens, others = tf.constant(np.random.default_rng(0).integers(5, size=(3, 12)).astype("int32")), memory_inputs(3)
    expected = model([tokens, *others] if memory else tokens)
    read, states, found = decoding.read_on(model, 12), None, []
    for part in tf.split(tokens, parts, axis=1):
        logits, states = read([part, *others] if memory else part, states)
        found.append(logits)
        others = [tf.zeros_like(others[0]), others[1]]  # Its keys and values were kept.
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-5)


def test_what_lies_further_back_than_the_states_reach_is_forgotten():
    tokens = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(5, 8, keras.initializers.RandomNormal())(tokens)
    model = keras.Model(tokens, layers.MultiHeadAttention(2, 4)(hidden, hidden, use_causal_mask=True))
    ids = np.random.default_rng(0).integers(5, size=(2, 9)).astype("int32")
    read, states = decoding.read_on(model, 4), None
    for place in range(9):
        found, states = read(ids[:, place : place + 1], states)
        expected = model(ids[:, max(0, place - 4) : place + 1])[:, -1]
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory", [False, True])
def test_texts_are_those_that_the_network_writes_without_states(memory):
    model, others = transformer(memory), memory_inputs(2)
    read = decoding.read_on(model, 12)

    def logits(ids):
        return model([ids, *others] if memory else ids)[:, -1]

    def step(tokens, states, beam_size=1):
        repeated = [tf.repeat(each, beam_size, axis=0) for each in others]
        found, states = read([tokens[:, None], *repeated] if memory else tokens[:, None], states)
        return tf.nn.log_softmax(found[:, 0]), states

    prompt = tf.constant([[1, 2, 3], [4, 0, 2]])
    _, states = read([prompt[:, :-1], *others] if memory else prompt[:, :-1])
    written = decoding.greedy(step, prompt[:, -1], states, 8)
    drawn = decoding.sample(step, prompt[:, -1], states, 8, seed=5)
    ids = {"greedy": prompt, "sampled": prompt}
    for place in range(8):
        likeliest = tf.argmax(logits(ids["greedy"]), axis=-1, output_type=tf.int32)[:, None]
        ids["greedy"] = tf.concat([ids["greedy"], likeliest], axis=1)
        random = tf.random.stateless_categorical(tf.nn.log_softmax(logits(ids["sampled"])), 1, (5, place), tf.int32)
        ids["sampled"] = tf.concat([ids["sampled"], random], axis=1)
    np.testing.assert_array_equal(written, ids["greedy"][:, 3:])
    np.testing.assert_array_equal(drawn, ids["sampled"][:, 3:])
    assert np.any(written != drawn) and len(np.unique(written)) > 1
    texts, scores = decoding.beam_search(lambda *given: step(*given, beam_size=3), prompt[:, -1], states, 8, 3)
    for row in range(2):
        for text, score in zip(texts[row], scores[row]):
            whole = tf.concat([prompt[row], text], axis=0)[None]
            given = [each[row : row + 1] for each in others]
            found = tf.nn.log_softmax(model([whole, *given] if memory else whole))[0, 2:-1]
            total = sum(found[place, token] for place, token in enumerate(text))
            np.testing.assert_allclose(total, score, rtol=1e-4)


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"top_k": 2}, [0.5, 0.3, 0, 0]),
        ({"top_k": 1}, [0.5, 0, 0, 0]),
        ({"top_p": 0.85}, [0.5, 0.3, 0.15, 0]),
        ({"top_p": 0.45}, [0.5, 0, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2, "top_p": 0.6}, [0.5, 0, 0, 0]),  # Of two, the first has 0.625.
        ({"top_p": 0.6, "temperature": 0.5}, [0.25, 0, 0, 0]),  # Of the squares, the first has 0.68.
    ],
)
def test_unlikely_tokens_are_never_drawn(options, kept):
    rows, order = 4000, [2, 0, 3, 1]
    probabilities = np.array([0.5, 0.3, 0.15, 0.05], "float32")[order]

    def step(tokens, states):
        return tf.tile(tf.math.log(probabilities)[None], (rows, 1)), states

    drawn = decoding.sample(step, tf.zeros(rows, tf.int32), [], 1, **options).numpy()
    expected = np.array(kept)[order] / np.sum(kept)
    found = np.bincount(drawn[:, 0], minlength=4) / rows
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert (found[expected == 0] == 0).all()


@pytest.mark.parametrize("name", ["transformers.translation"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_translations_are_the_same_with_cached_keys_and_values(recipe, beam_size, monkeypatch):
    monkeypatch.setattr(recipe, "LONGEST", 14)  # Source and translation are shorter in this test.
    keras.utils.set_random_seed(1)
    model = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "layers": 2}))
    for weight in model.trainable_weights[1:]:  # With other embeddings, it would write one token again and again.
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.4))
    assert model.trainable_weights[0].path.endswith("embeddings")
    lengths = np.array([[3], [9], [5], [7], [1]])
    source = np.random.default_rng(0).integers(4, 500, (5, 9)).astype("int32")
    source = np.where(np.arange(9) < lengths, source, 0)
    written = recipe.decoder(model)(source, beam_size)
    np.testing.assert_array_equal(written, recipe.decoder(model, cached=False)(source, beam_size))
    np.testing.assert_array_equal(written, recipe.decoder(model)(np.pad(source, ((0, 0), (0, 4))), beam_size))
    if beam_size == 1:
        logits = model([source, np.pad(written[:, :-1], ((0, 0), (1, 0)), constant_values=recipe.START)]).numpy()
        real = written != 0
        np.testing.assert_array_equal(logits.argmax(axis=-1)[real], written[real])
    assert (written[0] != written[1]).any() and len(np.unique(written)) > 2


# The exponents of the length penalty; of other recipes, 0.
ALPHAS = {"seq2seq.summarization": 1.0, "seq2seq.translation": 1.0, "transformers.translation": 1.0}


@pytest.mark.recorded
def test_a_recipe_decodes_with_its_own_tokens_limit_and_length_penalty(name, recipe, tiny_runs):
    if not decoding_of(recipe):
        return
    calls = tiny_runs(name).decoded
    start = recipe.encode(recipe.START)[-1] if isinstance(recipe.START, str) else recipe.START
    limits = [getattr(recipe, each) for each in ("LONGEST", "ANSWER_LENGTH", "LENGTH") if hasattr(recipe, each)]
    assert calls
    for call in calls:
        assert np.all(call["start"] == start) and call["end"] == getattr(recipe, "END", None)
        assert call["alpha"] == ALPHAS.get(name, 0.0) and [call["length"]] == (limits or [400])
