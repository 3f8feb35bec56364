"""Text out: what a model of next tokens writes, whole batches at a time.

Every function takes `step(tokens (N,), states: list of (N, ...)) -> log_probabilities (N, V), states`, made of
TensorFlow operations alone, and runs its loop inside one `tf.function`.
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
