"""Text out: what a model of next tokens writes, whole batches at a time.

Every function takes `step(tokens (N,), states: list of (N, ...)) -> log_probabilities (N, V), states`, made of
TensorFlow operations alone, and runs its loop inside one `tf.function`.
"""

import numpy as np
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


def beam_search(step, states, start_token, end_token, length, beam=5, length_penalty=0.0):
    """Keeps the `beam` best beginnings at every step; exact where the beam holds all that can be written.

    states: list of (B, ...), before the first token.
    start_token: read first, not written.
    end_token: ends a text and is written; None where all texts have the full length. What follows it is 0.
    length: of the longest text.
    length_penalty: alpha of Wu et al. 2016 (https://arxiv.org/abs/1609.08144), equation 14: texts are ranked by
        their log-probability over ((5 + tokens) / 6)^alpha. 0 favours short texts, 1 compares the mean of tokens.

    Returns:
        Tokens (B, beam, length) int32, and their scores (B, beam), the best first.
    """

    def normalizer(lengths):
        return ((5.0 + tf.cast(lengths, tf.float32)) / 6.0) ** length_penalty

    @tf.function
    def loop(states):
        batch = states[0].shape[0]
        states = [tf.repeat(state, beam, axis=0) for state in states]
        tokens = tf.fill((batch, beam), start_token)
        # All beams begin alike, so at first only one of them counts.
        totals = tf.tile(tf.constant([[0.0] + [-np.inf] * (beam - 1)]), (batch, 1))
        written = tf.zeros((batch, beam, length), tf.int32)
        lengths = tf.zeros((batch, beam), tf.int32)
        ended = tf.zeros((batch, beam), tf.bool)
        for position in tf.range(length):
            if tf.reduce_all(ended):
                break
            log_probabilities, states = step(tf.reshape(tokens, (-1,)), states)
            vocabulary = tf.shape(log_probabilities)[-1]
            log_probabilities = tf.reshape(log_probabilities, (batch, beam, vocabulary))
            # A text that has ended goes on with padding, at no cost.
            padding_alone = tf.where(tf.range(vocabulary) == 0, 0.0, -np.inf)
            log_probabilities = tf.where(ended[..., None], padding_alone, log_probabilities)
            lengths += tf.cast(~ended, tf.int32)
            candidates = tf.reshape(totals[..., None] + log_probabilities, (batch, -1))
            ranks = candidates / tf.repeat(normalizer(lengths), vocabulary, axis=1)
            _, chosen = tf.math.top_k(ranks, beam)
            parents, tokens = chosen // vocabulary, chosen % vocabulary
            totals = tf.gather(candidates, chosen, batch_dims=1)
            lengths = tf.gather(lengths, parents, batch_dims=1)
            ended = tf.gather(ended, parents, batch_dims=1)
            written = tf.where(
                tf.range(length) == position, tokens[..., None], tf.gather(written, parents, batch_dims=1)
            )
            rows = tf.reshape(parents + beam * tf.range(batch)[:, None], (-1,))
            states = [tf.gather(state, rows) for state in states]
            if end_token is not None:
                ended = ended | (tokens == end_token)
        return written, totals / normalizer(lengths)

    return loop(list(states))


def greedy(step, states, start_token, end_token, length):
    """Writes the likeliest token at every step: `beam_search` with a beam of one. Returns tokens (B, length)."""
    return beam_search(step, states, start_token, end_token, length, beam=1)[0][:, 0]
