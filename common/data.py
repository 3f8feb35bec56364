"""Examples in: TFDS with errors of one line, and a shuffle that a resumed run repeats."""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds


def load(source, split, examples=None):
    """Returns a TFDS split as a `tf.data.Dataset`, in the official order.

    source: a TFDS name ("mnist", "glue/sst2") or a builder class of `common.datasets`.
    split: TFDS's notation ("train[:90%]").
    examples: reads no more than so many; None reads all.
    """
    builder = tfds.builder(source) if isinstance(source, str) else source()
    builder.download_and_prepare()
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    return dataset if examples is None else dataset.take(examples)


@functools.cache
def _iteration():
    """The counter that keys every shuffle: one for the process, as the global random seed is."""
    return tf.Variable(0, dtype=tf.int64)


def set_epoch(epoch):
    """Makes the next pass over a shuffled dataset that of `epoch`, counted from 0."""
    _iteration().assign(epoch)


def shuffle(dataset):
    """Shuffles all examples, anew in every pass, by (global seed, epoch) alone.

    `Dataset.shuffle` counts passes inside its iterator, so a resumed run would see the order of epoch 0 again.
    The seed is that of `keras.utils.set_random_seed`, which must come first. Put `cache()` before this and
    `batch()` after.

    Raises:
        ValueError: the dataset's cardinality is not known.
    """
    size = dataset.cardinality()
    if size < 0:
        raise ValueError("shuffle needs a dataset of known cardinality: use assert_cardinality")
    counter = _iteration()
    key = np.random.randint(1, 2**31 - 1)

    def one_pass(_):
        # TensorFlow combines a graph's seed with the operation's, and fails on a tensor if the graph's is 0.
        tf.compat.v1.set_random_seed(key)
        return dataset.shuffle(size, seed=counter.assign_add(1), reshuffle_each_iteration=False)

    once = tf.data.Dataset.range(1).flat_map(one_pass)
    return once.apply(tf.data.experimental.assert_cardinality(size))
