"""Datasets in, batches out: a shuffle that a resumed run repeats, and batches of similar length.

For epochs of `shuffle(examples).repeat().take(steps)`, map and prefetch before `repeat`: prefetching after it can begin
a pass that the epoch does not need, and timing would decide whether that pass is counted.
"""

import numpy as np
import tensorflow as tf


def shuffle(dataset):
    """Shuffles all examples, in an order that depends only on the global seed and the number of the pass.

    `Dataset.shuffle` counts the passes in its iterator, which a resumed run creates again; here variables count them,
    listed in `shuffle.counters` for all datasets. Call `keras.utils.set_random_seed` first, `cache()` before this
    and `batch()` after. Autotuning is off for all that follows. Raises ValueError if the cardinality is unknown.
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
    options = tf.data.Options()
    # The end of an iterator waits for TensorFlow's autotuning thread, which often misses the signal to stop and sleeps
    # on (2.21), which prolongs epochs. `prefetch(AUTOTUNE)` adapts its buffer without that thread.
    options.autotune.enabled = False
    return once.apply(tf.data.experimental.assert_cardinality(size)).with_options(options)


shuffle.counters = []


def bucket(tensors, lengths, edges, batch_size, shuffled=False):
    """Batches examples of similar length together, which saves padding (zeros on the right).

    tensors: structure of tensors or ragged tensors; one row of each is an example.
    lengths: (N,) int, or a list of these for several sequences; then every combination has a bucket.
    edges: the lengths at which all buckets but the first begin, or one such list for each sequence.
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
    count = sum(-(-size // batch_size) for size in sizes)  # The last batch of a bucket may be short.
    batches = batches.map(lambda places, batch: batch).apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(tf.data.AUTOTUNE)


def outputs(model, batches):
    """A model's outputs (N, ...) for all batches, and their labels (N,); `predict` would compile every shape."""
    return map(np.concatenate, zip(*((model(inputs), labels) for inputs, labels in batches)))
