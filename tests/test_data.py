"""Loading and shuffling."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from common import data
from common.cookbook import preparation
from common.datasets import stanford_sentiment_treebank, sums


def order(dataset):
    return list(map(int, dataset.as_numpy_iterator()))


@pytest.mark.parametrize("seed", [0, 1])
def test_shuffle_depends_on_the_seed_and_on_the_passes_before_alone(seed):
    def shuffled(seed):
        keras.utils.set_random_seed(seed)
        data.shuffle.counters.clear()
        return data.shuffle(tf.data.Dataset.range(50).cache())

    first = shuffled(seed)
    passes = [order(first) for _ in range(3)]
    assert all(sorted(each) == list(range(50)) for each in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    resumed = shuffled(seed)
    (counter,) = data.shuffle.counters
    counter.assign(2)
    assert order(resumed) == passes[2]
    assert order(shuffled(seed + 7)) != passes[0]


def test_data_of_any_size_are_shuffled_as_a_whole():
    first = order(data.shuffle(tf.data.Dataset.range(40_000)).take(200))
    assert min(first) < 4_000 and max(first) > 36_000


def test_every_shuffle_counts_for_itself():
    keras.utils.set_random_seed(0)
    data.shuffle.counters.clear()
    one, other = (data.shuffle(tf.data.Dataset.range(20)) for _ in range(2))
    first = order(other)
    for _ in range(3):
        order(one)
    assert [int(counter) for counter in data.shuffle.counters] == [3, 1]
    assert order(other) != first


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
def test_bucket_batches_every_example_once_with_those_of_similar_length(edges):
    keras.utils.set_random_seed(0)
    lengths = np.random.default_rng(0).integers(1, 12, 50)
    rows = tf.ragged.constant([[number + 1] * length for number, length in enumerate(lengths)])
    batches = data.bucket((rows, lengths), lengths, edges, batch_size=4, shuffled=True)
    found = list(batches.as_numpy_iterator())
    assert len(found) == batches.cardinality()
    assert sorted(row[0] for rows, _ in found for row in rows) == list(range(1, 51))
    for rows, real in found:
        assert rows.shape[1] == real.max() and len(set(np.digitize(real, edges))) == 1
        np.testing.assert_array_equal((rows > 0).sum(axis=1), real)


def test_bucket_by_two_lengths_batches_what_is_similar_in_both():
    first, second = np.random.default_rng(0).integers(1, 12, (2, 50))
    batches = data.bucket((first, second), [first, second], [[4, 9], [6]], batch_size=4)
    found = list(batches.as_numpy_iterator())
    assert len(found) == batches.cardinality()
    assert sorted(pair for batch in found for pair in zip(*batch)) == sorted(zip(first, second))
    for one, other in found:
        assert len(set(np.digitize(one, [4, 9]))) == len(set(np.digitize(other, [6]))) == 1


def in_an_empty_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(preparation.tfds, "builder", functools.partial(tfds.builder, data_dir=tmp_path))


def test_a_data_set_out_of_reach_is_told_at_once(tmp_path, monkeypatch):
    def unreachable(url):
        raise OSError("no network")

    in_an_empty_directory(monkeypatch, tmp_path)
    monkeypatch.setattr(preparation, "reach", unreachable)
    with pytest.raises(preparation.Unavailable, match=r"^[^\n]*kmnist.*20\.3 MiB.*no network[^\n]*$") as error:
        preparation.prepare(["kmnist"])
    assert str(tmp_path) in str(error.value)
    with pytest.raises(preparation.Unavailable, match="no data set 'nonesuch'"):
        preparation.prepare(["nonesuch"])


def test_a_broken_download_is_told_in_one_line(tmp_path, monkeypatch):
    def broken(self, **options):
        raise ConnectionError("reset by peer\nafter 3 bytes")

    in_an_empty_directory(monkeypatch, tmp_path)
    monkeypatch.setattr(preparation, "reach", lambda url: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", broken)
    with pytest.raises(preparation.Unavailable, match=r"^[^\n]*reset by peer[^\n]*$"):
        preparation.prepare(["kmnist"])


def test_a_mistake_in_a_builder_is_not_taken_for_a_missing_network(tmp_path, monkeypatch):
    """Else the tests of its recipe would be skipped."""

    def mistaken(self, *arguments):
        raise KeyError("no such column")

    in_an_empty_directory(monkeypatch, tmp_path)
    monkeypatch.setattr(sums.Builder, "_generate_examples", mistaken)
    with pytest.raises(KeyError, match="no such column"):
        preparation.prepare([sums.Builder.name])


def test_preparing_restores_the_random_state_of_python_and_numpy(monkeypatch):
    monkeypatch.setattr(preparation, "prepare_one", lambda name: (random.random(), np.random.random()))
    keras.utils.set_random_seed(5)
    expected = random.random(), np.random.random()
    keras.utils.set_random_seed(5)
    preparation.prepare(["anything"])
    assert (random.random(), np.random.random()) == expected


def test_preparing_data_leaves_the_random_state_as_it_was(tmp_path, monkeypatch):
    in_an_empty_directory(monkeypatch, tmp_path)
    keras.utils.set_random_seed(5)
    expected = random.random(), np.random.random(), float(tf.random.uniform(()))
    keras.utils.set_random_seed(5)
    preparation.prepare(["sums", "environment/none"])
    assert (tmp_path / "sums").exists()
    assert (random.random(), np.random.random(), float(tf.random.uniform(()))) == expected


def test_sums_are_right_and_no_split_holds_another_s():
    preparation.prepare([sums.Builder.name])
    seen = {}
    for split in ("train", "validation", "test"):
        for pair in tfds.load(sums.Builder.name, split=split).as_numpy_iterator():
            first, second = map(int, pair["question"].decode().split("+"))
            assert first + second == int(pair["answer"])
            assert seen.setdefault(frozenset([first, second]), split) == split
    assert len(seen) == 60_000
    assert np.all(np.array([max(pair) for pair in seen]) < 1000)


def test_batches_of_shuffled_data_are_not_autotuned():
    # `AUTOTUNE` then leaves the buffer's size to `prefetch` itself.
    batches = data.shuffle(tf.data.Dataset.range(10)).batch(2).prefetch(tf.data.AUTOTUNE)
    assert batches.options().autotune.enabled is False
    assert sorted(np.concatenate(list(batches.as_numpy_iterator()))) == list(range(10))


def test_a_tree_is_parsed_into_phrases_that_follow_their_parts():
    # The file has a few no-break spaces, which belong to a word.
    tree = stanford_sentiment_treebank.parse("(3 (1 (2 its) (4 (2 8\u00a01\\/2) (0 minutes))) (2 -LRB-))")
    words = ["its", "8\u00a01/2", "minutes", "("]
    assert tree["phrases"] == [*words, " ".join(words[1:3]), " ".join(words[:3]), " ".join(words)]
    assert tree["children"].tolist() == [[1, 2], [0, 4], [5, 3]]
    assert tree["levels"] == [0, 0, 0, 0, 1, 2, 3]
    assert tree["labels"] == [2, 2, 0, 2, 4, 1, 3]
    assert stanford_sentiment_treebank.parse("((a (great film)) .)")["children"].tolist() == [[1, 2], [0, 4], [5, 3]]


@pytest.mark.parametrize(
    "text", ["", "()", "a film", "(a great film)", "(a film", "(a film))", "(a film) (b c d)", "(() a film)"]
)
def test_text_that_is_no_binary_tree_is_refused(text):
    with pytest.raises(ValueError, match="not a binary tree"):
        stanford_sentiment_treebank.parse(text)


def test_outputs_and_labels_are_those_of_all_batches_in_order():
    numbers = tf.data.Dataset.range(7)
    found, labels = data.outputs(lambda inputs: 2 * inputs[:, None], numbers.map(lambda x: (x, -x)).batch(3))
    np.testing.assert_array_equal(found[:, 0], 2 * np.arange(7))
    np.testing.assert_array_equal(labels, -np.arange(7))
