"""Loading and shuffling."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from common import data


def order(dataset):
    return list(map(int, dataset.as_numpy_iterator()))


@pytest.mark.parametrize("seed", [0, 1])
def test_shuffle_depends_on_seed_and_epoch_alone(seed):
    keras.utils.set_random_seed(seed)
    shuffled = data.shuffle(tf.data.Dataset.range(50).cache())
    data.set_epoch(0)
    passes = [order(shuffled) for _ in range(3)]
    assert all(sorted(each) == list(range(50)) for each in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    keras.utils.set_random_seed(seed)
    again = data.shuffle(tf.data.Dataset.range(50).cache())
    data.set_epoch(2)
    assert order(again) == passes[2]
    keras.utils.set_random_seed(seed + 7)
    other = data.shuffle(tf.data.Dataset.range(50))
    data.set_epoch(0)
    assert order(other) != passes[0]


def test_shuffle_reads_the_cache_and_not_the_source_again():
    reads = []

    def read(value):
        return tf.py_function(lambda x: reads.append(int(x)) or x, [value], tf.int64)

    shuffled = data.shuffle(tf.data.Dataset.range(10).map(read).cache())
    for _ in range(3):
        list(shuffled)
    assert sorted(reads) == list(range(10))


def test_shuffle_wants_to_know_the_number_of_examples():
    with pytest.raises(ValueError, match="cardinality"):
        data.shuffle(tf.data.Dataset.range(10).filter(lambda x: x > 2))


@pytest.mark.parametrize("edges", [[], [4, 9]])
def test_bucket_batches_every_example_once_with_its_like(edges):
    keras.utils.set_random_seed(0)
    lengths = np.random.default_rng(0).integers(1, 12, 50)
    rows = tf.ragged.constant([[number + 1] * length for number, length in enumerate(lengths)])
    examples = tf.data.Dataset.from_tensor_slices((rows, lengths)).map(lambda row, length: (tf.identity(row), length))
    batches = data.bucket(examples, lengths, edges, batch_size=4, shuffled=True)
    found = list(batches.as_numpy_iterator())
    assert len(found) == batches.cardinality()
    assert sorted(row[0] for rows, _ in found for row in rows) == list(range(1, 51))
    for rows, real in found:
        assert rows.shape[1] == real.max() and len(set(np.digitize(real, edges))) == 1
        np.testing.assert_array_equal((rows > 0).sum(axis=1), real)


def test_bucket_by_two_lengths_batches_what_is_like_in_both():
    first, second = np.random.default_rng(0).integers(1, 12, (2, 50))
    examples = tf.data.Dataset.from_tensor_slices((first, second))
    batches = data.bucket(examples, [first, second], [[4, 9], [6]], batch_size=4)
    found = list(batches.as_numpy_iterator())
    assert len(found) == batches.cardinality()
    assert sorted(pair for batch in found for pair in zip(*batch)) == sorted(zip(first, second))
    for one, other in found:
        assert len(set(np.digitize(one, [4, 9]))) == len(set(np.digitize(other, [6]))) == 1


def test_a_data_set_out_of_reach_is_told_at_once(tmp_path, monkeypatch):
    def unreachable(url):
        raise OSError("no network")

    monkeypatch.setattr(data, "reach", unreachable)
    absent = functools.partial(tfds.builder, "kmnist", data_dir=tmp_path)
    with pytest.raises(data.Unavailable, match=r"^[^\n]*kmnist.*20\.3 MiB.*no network[^\n]*$") as error:
        data.load(absent, "train")
    assert str(tmp_path) in str(error.value)
    with pytest.raises(data.Unavailable, match="no data set 'nonesuch'"):
        data.load("nonesuch", "train")


def test_a_broken_download_is_told_in_one_line(tmp_path, monkeypatch):
    def broken(self, **options):
        raise ConnectionError("reset by peer\nafter 3 bytes")

    monkeypatch.setattr(data, "reach", lambda url: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", broken)
    with pytest.raises(data.Unavailable, match=r"^[^\n]*reset by peer[^\n]*$"):
        data.load(functools.partial(tfds.builder, "kmnist", data_dir=tmp_path), "train")


def test_sums_are_right_and_no_split_holds_another_s():
    from common.datasets import sums

    seen = {}
    for split in ("train", "validation", "test"):
        for pair in data.load(sums.Builder, split).as_numpy_iterator():
            first, second = map(int, pair["question"].decode().split("+"))
            assert first + second == int(pair["answer"])
            assert seen.setdefault(frozenset([first, second]), split) == split
    assert len(seen) == 60_000
    assert np.all(np.array([max(pair) for pair in seen]) < 1000)
