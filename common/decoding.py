"""Text out: what a next-token model writes, whole batches at a time.

Every function takes `step(tokens (N,), states: list of (N, ...)) -> log_probabilities (N, V), states`, made of
TensorFlow operations alone, and runs its loop inside one `tf.function`. Called from a `tf.function` of your own it is
traced with that one, once for all batches.
"""

import tensorflow as tf


def sample(step, tokens, states, length, temperature=1.0, seed=0):
    """Returns `length` tokens (N, length), each drawn from the distribution after those before it.

    tokens (N,), states: the last token read and the states before it.
    temperature: a number, or one for each row (N,). It divides the log-probabilities: below 1 favours the likely,
        1 draws from the model as it is, above 1 favours the unlikely.
    seed: the same seed gives the same tokens.
    """
    temperature = tf.reshape(tf.cast(temperature, tf.float32), (-1, 1))

    @tf.function
    def loop(tokens, states):
        written = tf.TensorArray(tf.int32, size=length)
        for position in tf.range(length):
            log_probabilities, states = step(tokens, states)
            drawn = tf.random.stateless_categorical(
                log_probabilities / temperature, num_samples=1, seed=(seed, position), dtype=tf.int32
            )
            tokens = drawn[:, 0]
            written = written.write(position, tokens)
        return tf.transpose(written.stack())

    return loop(tf.cast(tokens, tf.int32), list(states))


def greedy(step, tokens, states, length, end_token=None):
    """Returns the likeliest token at every step, up to `length` of them (N, length), 0 after `end_token`.

    tokens (N,), states: the last token read and the states before it. Without `end_token` all rows are full.
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

    A score is log P(Y) / ((5 + |Y|) / 6) ** alpha, where |Y| counts the end token (Wu et al. 2016, section 7, eq. 14,
    without its coverage penalty). Finished and unfinished sequences compete at every step; one without an end token by
    `length` counts as it stands. With fewer possible sequences than beams the last scores are minus infinity.

    tokens (N,), states: the last token read and the states before it. `step` gets them `beam_size` times, as
        (N * beam_size, ...), the beams of a row side by side: what it closes over must be repeated likewise.
    """

    @tf.function
    def loop(tokens, states):
        rows = tokens.shape[0] or tf.shape(tokens)[0]
        tokens = tf.repeat(tokens, beam_size)
        states = [tf.repeat(state, beam_size, axis=0) for state in states]
        written = tf.zeros((rows, beam_size, length), tf.int32)
        lengths = tf.zeros((rows, beam_size), tf.int32)
        finished = tf.zeros((rows, beam_size), tf.bool)
        # All beams begin alike: only one counts, or the same sequence would fill them all.
        first = tf.where(tf.range(beam_size) == 0, 0.0, -float("inf"))
        scores = log_probability = tf.tile(first[None], (rows, 1))
        for position in tf.range(length):
            next_log_probabilities, states = step(tokens, states)
            vocabulary_size = tf.shape(next_log_probabilities)[-1]
            next_log_probabilities = tf.reshape(next_log_probabilities, (rows, beam_size, vocabulary_size))
            only_padding = tf.where(tf.range(vocabulary_size) == 0, 0.0, -float("inf"))
            next_log_probabilities = tf.where(finished[:, :, None], only_padding, next_log_probabilities)
            totals = log_probability[:, :, None] + next_log_probabilities  # (N, beams, V)
            lengths += tf.where(finished, 0, 1)
            penalty = ((5.0 + tf.cast(lengths, tf.float32)) / 6.0) ** alpha
            candidates = (rows, beam_size * vocabulary_size)
            scores, best = tf.math.top_k(tf.reshape(totals / penalty[:, :, None], candidates), beam_size)
            log_probability = tf.gather(tf.reshape(totals, candidates), best, batch_dims=1)
            parents, chosen = best // vocabulary_size, best % vocabulary_size
            written, lengths, finished = (
                tf.gather(each, parents, batch_dims=1) for each in (written, lengths, finished)
            )
            written = tf.where(tf.range(length) == position, chosen[:, :, None], written)
            flat_parents = tf.reshape(tf.range(rows)[:, None] * beam_size + parents, (-1,))
            states = [tf.gather(state, flat_parents) for state in states]
            tokens = tf.reshape(chosen, (-1,))
            if end_token is not None:
                finished |= chosen == end_token
                if tf.reduce_all(finished):
                    break
        return written, scores

    return loop(tf.cast(tokens, tf.int32), list(states))
