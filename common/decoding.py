"""Decoding: generates the output of a next-token model or an encoder-decoder, whole batches at a time.

`step(tokens (N,), states: list of (N, ...)) -> log_probabilities (N, V), states` consists of TensorFlow operations,
and its loop runs inside one `tf.function`. Called from a `tf.function` of your own, it is traced as part of that one,
once for all batches.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


def sample(step, tokens, states, length, temperature=1.0, seed=0, top_k=None, top_p=None):
    """Returns `length` tokens (N, length), each sampled from the model's distribution given those before it.

    tokens (N,), states: the last token read and the states before it.
    temperature: a number, or one for each row (N,). It divides the log-probabilities: below 1 favours likely tokens,
        1 leaves the distribution as it is, above 1 favours unlikely ones.
    seed: the same seed gives the same tokens.
    top_k: draws from the `top_k` likeliest tokens alone.
    top_p: draws from the smallest set of likeliest tokens whose probabilities add up to `top_p` or more, at this
        temperature and among the `top_k` (Holtzman et al. 2020, section 3.1, https://arxiv.org/abs/1904.09751).
    """
    temperature = tf.reshape(tf.cast(temperature, tf.float32), (-1, 1))

    @tf.function
    def loop(tokens, states):
        written = tf.TensorArray(tf.int32, size=length)
        for position in tf.range(length):
            log_probabilities, states = step(tokens, states)
            logits = keep_likeliest(log_probabilities / temperature, top_k, top_p)
            drawn = tf.random.stateless_categorical(logits, num_samples=1, seed=(seed, position), dtype=tf.int32)
            tokens = drawn[:, 0]
            written = written.write(position, tokens)
        return tf.transpose(written.stack())

    return loop(tf.cast(tokens, tf.int32), list(states))


def keep_likeliest(logits, top_k=None, top_p=None):
    """The logits (N, V), minus infinity for tokens that `sample` must not draw; ties are kept or dropped together."""
    if top_k is not None:
        logits = tf.where(logits < tf.math.top_k(logits, top_k).values[:, -1:], -float("inf"), logits)
    if top_p is not None:
        ranked = tf.sort(logits, direction="DESCENDING")
        likelier = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)  # The sum of those before each.
        least = tf.reduce_min(tf.where(likelier < top_p, ranked, float("inf")), axis=-1, keepdims=True)
        logits = tf.where(logits < least, -float("inf"), logits)
    return logits


def greedy(step, tokens, states, length, end_token=None):
    """Returns the most likely token at every step, up to `length` of them (N, length), 0 after `end_token`.

    tokens (N,), states: the last token read and the states before it. Without `end_token`, no row ends early.
    """

    @tf.function
    def loop(tokens, states):
        written = tf.zeros((tf.shape(tokens)[0], length), tf.int32)
        finished = tf.zeros_like(tokens, tf.bool)
        for position in tf.range(length):
            log_probabilities, states = step(tokens, states)
            tokens = tf.where(finished, 0, tf.argmax(log_probabilities, axis=-1, output_type=tf.int32))
            written = tf.where(tf.range(length) == position, tokens[:, None], written)
            if end_token is not None:
                finished |= tokens == end_token
                if tf.reduce_all(finished):
                    break
        return written

    return loop(tf.cast(tokens, tf.int32), list(states))


def beam_search(step, tokens, states, length, beam_size, end_token=None, alpha=0.0):
    """Returns the best sequences (N, beam_size, length), 0 after `end_token`, and their scores, best first.

    A score is log P(Y) / ((5 + |Y|) / 6) ** alpha, where |Y| counts the end token (Wu et al. 2016, eq. 14, without its
    coverage penalty). Finished and unfinished sequences compete at every step; a beam of 1 is greedy decoding.

    tokens (N,), states: the last token read and the states before it. `step` receives each row `beam_size` times in
        succession, as (N * beam_size, ...); repeat any tensors that it closes over in the same way.
    """

    @tf.function
    def loop(tokens, states):
        rows = tokens.shape[0] or tf.shape(tokens)[0]
        tokens, *states = (tf.repeat(each, beam_size, axis=0) for each in (tokens, *states))
        # All beams begin identically: only the first counts, or the same sequence would fill them all.
        log_probability = tf.tile(tf.one_hot(0, beam_size, 0.0, -float("inf")), [rows])
        written, lengths = tf.zeros((rows * beam_size, length), tf.int32), tf.zeros_like(log_probability)
        finished = tf.zeros_like(tokens, tf.bool)
        scores = tf.reshape(log_probability, (rows, beam_size))
        for position in tf.range(length):
            next_log_probabilities, states = step(tokens, states)
            vocabulary_size = tf.shape(next_log_probabilities)[-1]
            only_padding = tf.one_hot(0, vocabulary_size, 0.0, -float("inf"))
            totals = tf.where(finished[:, None], only_padding, next_log_probabilities) + log_probability[:, None]
            lengths += tf.where(finished, 0.0, 1.0)
            ranked = totals / ((5.0 + lengths[:, None]) / 6.0) ** alpha
            scores, best = tf.math.top_k(tf.reshape(ranked, (rows, beam_size * vocabulary_size)), beam_size)
            parents = tf.reshape(tf.range(rows)[:, None] * beam_size + best // vocabulary_size, [-1])
            tokens = tf.reshape(best % vocabulary_size, [-1])
            log_probability = tf.gather_nd(totals, tf.stack([parents, tokens], axis=1))
            written, lengths, finished, *states = (
                tf.gather(each, parents) for each in (written, lengths, finished, *states)
            )
            written = tf.where(tf.range(length) == position, tokens[:, None], written)
            if end_token is not None:
                finished |= tokens == end_token
                if tf.reduce_all(finished):
                    break
        return tf.reshape(written, (rows, beam_size, length)), scores

    return loop(tf.cast(tokens, tf.int32), list(states))


@functools.lru_cache(maxsize=1)  # Traced once for all calls with one model.
def decoder(model, start, end, length, alpha=0.0, outputs=(), log_probabilities=None):
    """Returns a function from source tokens (N, S) and a beam size to the target tokens (N, length) of `beam_search`.

    model: trained with teacher forcing, maps the source and the shifted target to logits. A layer "memory" outputs
        what its decoder attends to, a layer NAME_state the initial state of each GRU NAME of the decoder.
    outputs, log_probabilities: for models that don't output logits: names of layers, and a function of the source and
        the dict of their outputs (N, 1, ...) that returns the log-probabilities (N, V) of the next token.
    """
    layer_outputs = {layer.name: layer.output for layer in model.layers}
    recurrent = [name.removesuffix("_state") for name in layer_outputs if name.endswith("_state")]
    initial = [layer_outputs["memory"], *(layer_outputs[f"{name}_state"] for name in recurrent)]
    encoder = keras.Model(model.inputs[0], initial)
    predicted = {name: layer_outputs[name] for name in outputs if name in layer_outputs} or model.outputs[0]
    later_states = [layer_outputs[name][1] for name in recurrent]
    one_step = keras.Model([*model.inputs[:2], *initial], [predicted, later_states])

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((), tf.int32)])
    def write(source, beam_size):
        memory, *states = map(tf.identity, encoder(source))  # Without Keras's mask: the decoder makes its own.
        tokens = tf.fill(tf.shape(source)[:1], start)
        source, memory = (tf.repeat(each, beam_size, axis=0) for each in (source, memory))

        def step(tokens, states):
            predicted, states = one_step([source, tokens[:, None], memory, *states])
            return log_probabilities(source, predicted) if outputs else tf.nn.log_softmax(predicted[:, 0]), states

        return beam_search(step, tokens, states, length, beam_size, end, alpha)[0][:, 0]

    def decode(source, beam_size=1):
        batches = tf.data.Dataset.from_tensor_slices(source).batch(200)
        return np.concatenate([write(batch, beam_size) for batch in batches])

    return decode


def read_on(model, length):
    """Makes a causal functional model read new tokens alone, with states in place of all tokens before them.

    Returns `read(inputs, states=None) -> outputs, states`: the outputs for new tokens, and the states after them.
    inputs: those of the model. The first are the T new tokens (N, T); with a decoder that attends to a memory, the
        others are that memory and what masks it, as in `keras.Model([tokens, memory, mask], logits)`.
    states: those after the tokens before, a list of (N, ...) as `sample` and `beam_search` need it; None if there are
        no tokens before.

    Whatever looks back has states: `MultiHeadAttention` with `use_causal_mask`, the keys and values of the last
    `length` tokens, and without it those of the memory, which are computed once; `Conv1D` with `padding="causal"`, its
    last inputs; `ops.cumsum`, which numbers tokens, its last sum. All other operations must treat tokens separately.
    """

    def read(inputs, states=None):
        past, future = iter(states or ()), []
        new = tf.nest.flatten(inputs)[0]
        count = next(past, tf.zeros(tf.shape(new)[:1], tf.int32))  # (N,), the number of tokens before.
        places = count[:, None] + tf.range(tf.shape(new)[1])  # (N, T)
        future.append(count + tf.shape(new)[1])

        def extend(values, size):
            """The last `size` values, or zeros, followed by the new ones; the end of all is kept as a state."""
            zeros = tf.zeros((tf.shape(values)[0], size, *values.shape[2:]), values.dtype)
            extended = tf.concat([next(past, zeros), values], axis=1)
            future.append(tf.ensure_shape(extended[:, tf.shape(values)[1] :], (None, size, *values.shape[2:])))
            return extended

        def attend(layer, query, value, key=None, attention_mask=None, use_causal_mask=False, **_):
            projections = (layer.key_dense, value if key is None else key), (layer.value_dense, value)
            if use_causal_mask:
                keys, values = (extend(dense(each), length) for dense, each in projections)
                first = future[0] - tf.shape(keys)[1]  # (N,), the place of the first key; below 0 it is none.
                key_places = first[:, None] + tf.range(tf.shape(keys)[1])
                mask = (key_places[:, None] >= 0) & (key_places[:, None] <= places[:, :, None])
            else:
                keys, values = (next(past) if states else dense(each) for dense, each in projections)
                future.extend([keys, values])
                mask = attention_mask
            mask = None if mask is None else mask[:, None]  # The same for all heads.
            return layer.output_dense(ops.dot_product_attention(layer.query_dense(query), keys, values, mask=mask))

        def call(operation, *arguments, **options):
            if isinstance(operation, layers.MultiHeadAttention):
                return attend(operation, *arguments, **options)
            if isinstance(operation, layers.Conv1D) and operation.padding == "causal":
                before = (operation.kernel_size[0] - 1) * operation.dilation_rate[0]
                return operation(extend(arguments[0], before))[:, before:]
            if type(operation).__name__ == "Cumsum":
                before = next(past, tf.zeros(tf.shape(new)[:1], arguments[0].dtype))[:, None]
                sums = tf.concat([before, before + operation(*arguments, **options)], axis=1)
                future.append(sums[:, -1])
                return sums[:, 1:]
            return operation(*arguments, **options)

        # What `keras.models.clone_model` with a `call_function` does to tensors that have no values yet.
        outputs = model._run_through_graph(inputs, call_fn=call)
        return outputs, future

    return read
