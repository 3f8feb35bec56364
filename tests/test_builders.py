"""What the dataset builders write. Their own code is run, since TFDS may have prepared the data before a change to it."""

import types

import numpy as np

from common.datasets import etth1, numenta, sums
from common.datasets.etth1 import etth1_dataset_builder
from common.datasets.mnist_scenes import mnist_scenes_dataset_builder


def test_no_hour_is_in_two_splits_and_none_between_them_is_lost(tmp_path):
    columns, path = etth1_dataset_builder.COLUMNS, tmp_path / "hours.csv"
    rows = [f"{hour},{','.join(['0.5'] * len(columns))}" for hour in range(17_420)]
    path.write_text("\n".join([",".join(["date", *columns]), *rows]))
    builder = types.SimpleNamespace(
        _generate_examples=lambda *given: etth1.Builder._generate_examples(None, *given),
    )
    manager = types.SimpleNamespace(download=lambda url: path)
    splits = etth1.Builder._split_generators(builder, manager)
    hours = {split: [int(example["date"]) for _, example in examples] for split, examples in splits.items()}
    assert list(hours) == ["train", "validation", "test"]
    assert sum(hours.values(), []) == list(range(20 * 30 * 24))
    assert len(hours["train"]) == 3 * len(hours["validation"]) == 3 * len(hours["test"])


def test_readings_have_the_number_of_their_window_from_one(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text("timestamp,value\n" + "".join(f"2014-07-0{day} 00:00:00,1.5\n" for day in range(1, 8)))
    windows = [
        ["2014-07-02 00:00:00.000000", "2014-07-03 00:00:00.000000"],
        ["2014-07-05 00:00:00.000000", "2014-07-05 12:00:00.000000"],
    ]
    examples = numenta.Builder._generate_examples(None, path, windows)
    assert [example["anomaly"] for _, example in examples] == [0, 1, 1, 0, 2, 0, 0]


def test_every_unseen_scene_has_a_withheld_pair_among_the_digits_that_are_painted_and_no_other_scene_has():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    withheld = mnist_scenes_dataset_builder.WITHHELD
    for unseen in (True, False):
        scenes = mnist_scenes_dataset_builder.draw_scenes(np.random.default_rng(1), labels, 400, unseen)
        for chosen, breaks, count in zip(*scenes):
            digits = labels[chosen[:count]]
            pairs = zip(digits, digits[1:], np.where(breaks, "above", "left of"))
            assert any((second - first) % 10 == withheld[relation] for first, second, relation in pairs) == unseen
        assert set(scenes[2]) == {2, 3, 4}


def test_no_sum_is_drawn_twice_not_even_with_its_numbers_exchanged():
    builder = types.SimpleNamespace(SIZES=sums.Builder.SIZES, _generate_examples=zip)
    splits = sums.Builder._split_generators(builder, None)
    drawn = [tuple(sorted(map(int, pair))) for pairs in splits.values() for pair in pairs]
    assert len(set(drawn)) == len(drawn) == sum(sums.Builder.SIZES.values())
