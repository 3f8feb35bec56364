"""Examples in: TFDS with errors of one line, a shuffle that a resumed run repeats, and batches of like length."""

import functools
import pathlib
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource

from common import errors


class Unavailable(errors.RecipeError):
    """A data set is neither on this machine nor to be downloaded."""


def load(source, split, examples=None):
    """Returns a TFDS split as a `tf.data.Dataset`, in the official order.

    source: a TFDS name ("mnist", "glue/sst2") or a builder class.
    split: TFDS's notation ("train[:90%]").
    examples: reads no more than so many; None reads all.

    Raises:
        Unavailable: the data set is neither on this machine nor to be downloaded.
    """
    try:
        builder = tfds.builder(source) if isinstance(source, str) else source()
    except tfds.core.DatasetNotFoundError as error:
        raise Unavailable(f"TFDS knows no data set {source!r}") from error
    if not pathlib.Path(builder.data_path, "dataset_info.json").exists():
        prepare(builder)
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    return dataset if examples is None else dataset.take(examples)


def prepare(builder):
    """Downloads and prepares a data set, having asked first whether that can succeed.

    TFDS itself tries ten times, for minutes, to reach a host that is not there.

    Raises:
        Unavailable: tells the data set, its size, where TFDS looks, and what to do.
    """
    downloads = pathlib.Path(builder.data_dir_root) / "downloads"
    missing = {
        url: info.size
        for url, info in (builder.url_infos or {}).items()
        if not (downloads / resource.get_dl_fname(url, info.checksum)).exists()
    }
    name, size = builder.info.full_name, f"{sum(missing.values()) / 2**20:.1f} MiB"
    try:
        for url in list(missing)[:1]:
            print(f"{name}: downloading {size} to {downloads}")
            reach(url)
        builder.download_and_prepare()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unavailable(
            f"data set {name} ({size} to download) is not prepared in {builder.data_path} and could not be: {reason}; "
            f"with a network run this again, or put the prepared folder there (TFDS_DATA_DIR names another place)"
        ) from error


def reach(url):
    """Asks once whether a host answers; any answer will do."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        pass


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


def bucket(examples, lengths, edges, batch_size, shuffled=False):
    """Batches examples of like length together, so that little is computed on padding, which is zeros on the right.

    lengths: (N,) int, of the examples in their order; or a list of these, one for each of several sequences.
    edges: the length at which each bucket but the first begins; a batch is as long as its longest example. With
        several sequences a list of edges for each, and a bucket for every combination.
    shuffled: shuffles the examples first, see `shuffle`.
    """
    if not isinstance(lengths, list):
        lengths, edges = [lengths], [edges]
    places = [np.searchsorted(below, length, side="right") for length, below in zip(lengths, edges, strict=True)]
    buckets = np.ravel_multi_index(places, [len(below) + 1 for below in edges])  # (N,)
    examples = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(tf.cast(buckets, tf.int32)), examples)
    if shuffled:
        examples = shuffle(examples)
    sizes = np.bincount(buckets)
    batches = examples.bucket_by_sequence_length(
        lambda bucket, example: bucket, list(range(1, len(sizes))), [batch_size] * len(sizes)
    )
    batches = batches.map(lambda buckets, batch: batch)
    # Every bucket ends in a batch that may be short.
    return batches.apply(tf.data.experimental.assert_cardinality(sum(-(-size // batch_size) for size in sizes)))
