"""Datasets in, batches out: a shuffle that a resumed run repeats, and batches of similar length."""

import numpy as np
import tensorflow as tf


def shuffle(dataset):
    """Shuffles all examples, anew in every pass, in an order that depends only on the global seed and the pass.

    `Dataset.shuffle` counts passes inside its iterator, which a resumed run creates anew. Here variables count them,
    those of all datasets in `shuffle.counters`. Call `keras.utils.set_random_seed` first, `cache()` before this, and
    `batch()` after. Raises ValueError if the cardinality is unknown.

    For epochs of `repeat().take(steps)`, map and prefetch before `repeat`: after it, reading ahead begins passes that
    the epoch does not need, and whether these are counted is a matter of timing.
    """
    size = dataset.cardinality()
    if size < 0:
        raise ValueError("shuffle needs data of known cardinality: use tf.data.experimental.assert_cardinality")
    key = np.random.randint(1, 2**31 - 1)
    passes = tf.Variable(0, dtype=tf.int64)
    shuffle.counters.append(passes)

    def one_pass(_):
        # TensorFlow combines a graph's seed with the operation's, and fails on a tensor if the graph's is 0.
        tf.compat.v1.set_random_seed(key)
        return dataset.shuffle(size, seed=passes.assign_add(1), reshuffle_each_iteration=False)

    once = tf.data.Dataset.range(1).flat_map(one_pass)
    return once.apply(tf.data.experimental.assert_cardinality(size))


shuffle.counters = []


def bucket(tensors, lengths, edges, batch_size, shuffled=False):
    """Batches examples of similar length together, so that little is computed on padding (zeros on the right).

    tensors: structure of tensors or ragged tensors; one row of each is an example.
    lengths: (N,) int, or a list of these for several sequences, which then have a bucket for every combination.
    edges: the lengths, or a list for each sequence, at which all buckets but the first begin.
    """
    if not isinstance(lengths, list):
        lengths, edges = [lengths], [edges]
    places = [np.searchsorted(below, length, side="right") for length, below in zip(lengths, edges, strict=True)]
    buckets = np.ravel_multi_index(places, [len(below) + 1 for below in edges])  # (N,)
    sizes = np.bincount(buckets)
    examples = tf.data.Dataset.from_tensor_slices((buckets.astype("int32"), tensors))
    # A slice of a ragged tensor is ragged in type only; `identity` makes it a tensor.
    examples = examples.map(lambda place, example: (place, tf.nest.map_structure(tf.identity, example))).cache()
    if shuffled:
        examples = shuffle(examples)
    batches = examples.bucket_by_sequence_length(
        lambda place, example: place, list(range(1, len(sizes))), [batch_size] * len(sizes)
    )
    batches = batches.map(lambda places, batch: batch)
    # Every bucket ends in a batch that may be short.
    return batches.apply(tf.data.experimental.assert_cardinality(sum(-(-size // batch_size) for size in sizes)))
