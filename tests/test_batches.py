"""What `load_data` hands over, in every recipe: targets one place late, weights, splits, passes, every example once."""

import collections
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from common.cookbook import preparation, settings
from known_answers import functions, readers
from test_recipes import call, first_batch, is_shifted


def can_be_given(recipe, name):
    """Whether `load_data` has a parameter of this name."""
    return hasattr(recipe, "load_data") and name in inspect.signature(recipe.load_data).parameters


def with_batch_size(recipe, size):
    """The hyperparameters of a tiny run, but for the batch size."""
    return settings.build(recipe.configure, {**recipe.TINY, "batch_size": size})


def batches_of(recipe, hp, split):
    """The split's dataset, None for a recipe that loads arrays or nothing."""
    data = recipe.load_data(hp, split) if hasattr(recipe, "load_data") else None
    return data if isinstance(data, tf.data.Dataset) else None


def rows_of(batches):
    """Every example as bytes, without padding and weights: a list for each batch.

    Where an input lists a batch's words or nodes together, a row is a target. Where all characters of a text are
    predicted, a row is a character.
    """
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if len(batches[0]) == 3 and not isinstance(batches[0][0], tuple):
        return [list(targets[weights > 0]) for _, targets, weights in batches]
    found = [[np.asarray(part) for part in tf.nest.flatten(batch[:2])] for batch in batches]
    firsts = [np.asarray(tf.nest.flatten(batch[:2][-1])[0]) for batch in batches]
    if any(len(part) != len(first) for parts, first in zip(found, firsts) for part in parts):
        found = [[first] for first in firsts]
    trimmed = [
        [[np.trim_zeros(row, "b").tobytes() for row in part.reshape(len(part), -1)] for part in parts]
        for parts in found
    ]
    return [list(zip(*parts)) for parts in trimmed]


def count(batches):
    """How often each example is in the batches, and what the examples weigh."""
    batches = list(batches.as_numpy_iterator())
    weight = sum(batch[2].sum() for batch in batches if len(batch) == 3)
    return collections.Counter(row for rows in rows_of(batches) for row in rows), weight


@pytest.mark.recorded
def test_a_decoder_reads_the_target_one_place_late_and_padding_weighs_nothing(recipe, keras_run, hp):
    names = [each.name for each in keras_run.model.inputs]
    shifted_name = next((each.name for each in keras_run.model.inputs if is_shifted(each)), None)
    assert shifted_name or not {"shift_right", "teacher_forcing"} & set(vars(recipe))
    if shifted_name is None or isinstance(recipe.START, str):
        return
    for split in ("train", "validation", "test"):
        weights, told, asked = [], [], []
        for inputs, target, weight in recipe.load_data(hp, split).as_numpy_iterator():
            inputs = dict(zip(names, inputs, strict=True))
            shifted, real = inputs[shifted_name], target != 0
            assert (shifted[:, 0] == recipe.START).all()
            np.testing.assert_array_equal(shifted[:, 1:][real[:, 1:]], target[:, :-1][real[:, 1:]])
            np.testing.assert_array_equal(inputs.get(shifted_name.removeprefix("shifted_"), target), target)
            np.testing.assert_array_equal(weight > 0, real)
            lengths = real.sum(axis=1)
            np.testing.assert_array_equal(
                np.flatnonzero(target == recipe.END),
                np.ravel_multi_index((np.arange(len(target)), lengths - 1), target.shape),
            )
            weights.append(weight[real])
            source = inputs[names[0]]
            if source.ndim == 2:
                told += [row[row != 0].tolist() for row in source]
                asked += [row[row != 0][:-1].tolist() for row in target]
        assert np.ptp(np.concatenate(weights)) < 1e-9, "some tokens weigh more than others"
        read = [text[-len(answer) :] == answer for text, answer in zip(told, asked)]
        assert sum(read) <= len(read) / 2, "the source ends with the target"


@pytest.mark.recorded
def test_a_language_model_s_targets_are_its_characters_one_later_and_each_counts_once(recipe, keras_run, hp):
    if not any(map(is_shifted, keras_run.model.inputs)) or not isinstance(recipe.START, str):
        return
    streams = "streams" in hp.values
    for split in ("train", "validation", "test") if streams else ("validation", "test"):
        text = recipe.load_text(hp, split)
        # A row of a batch goes on in the same row of the next if it is a stream, else in the next row.
        rows = zip(*recipe.load_data(hp, split).as_numpy_iterator())
        characters, targets, weights = (np.concatenate(each, axis=int(streams)).ravel() for each in rows)
        np.testing.assert_array_equal(weights, np.arange(len(weights)) < len(text))
        characters, targets = characters[: len(text)], targets[: len(text)]
        np.testing.assert_array_equal(targets[:-1], characters[1:])
        written = "".join(recipe.VOCABULARY[number] for number in targets)
        assert written == text if split != "train" else written in text + text
        assert recipe.VOCABULARY[characters[0]] == (recipe.START if split != "train" else written[-1])


def test_no_example_is_in_two_splits(recipe):
    taken, named = [], set()
    for name in recipe.PROMISE["data"]:
        if name.startswith(preparation.ENVIRONMENT):
            taken += [(name, seed, seed + 1) for seeds in recipe.SPLITS.values() for seed in seeds]
            named |= set(recipe.SPLITS)
            continue
        info = tfds.builder(name).info
        for split, spec in recipe.SPLITS.items():
            if preparation.has(info, spec):
                named.add(split)
                for part in tfds.core.ReadInstruction.from_spec(spec).to_absolute(info.splits):
                    begin, end = part.from_ or 0, part.to or info.splits[part.splitname].num_examples
                    assert begin < end, f"{split} is empty"
                    taken.append((f"{name} {part.splitname}", begin, end))
    if not named:
        pytest.skip("its data are not on this machine")
    assert named == set(recipe.SPLITS)
    for (one, _, end), (other, begin, _) in zip(sorted(taken), sorted(taken)[1:]):
        assert one != other or end <= begin, f"{one}: two splits have example {begin}"


def test_training_and_validation_data_are_those_of_their_splits(recipe, tiny_run, hp):
    if not hasattr(recipe, "load_data"):
        return
    assert "train" in tiny_run.splits_of_training
    assert "validation" in tiny_run.splits_of_training or hasattr(recipe, "validate")
    if batches_of(recipe, hp, "train") is not None:
        splits = ("train", "validation", "test")
        train, validation, test = (count(batches_of(recipe, hp, split))[0] for split in splits)
        assert train != validation != test != train


def test_every_pass_over_train_has_the_same_examples_in_other_batches(recipe, tiny_run):
    """And every pass over validation the same batches."""
    keras.utils.set_random_seed(0)
    hp = with_batch_size(recipe, 3)
    train, validation = (batches_of(recipe, hp, split) for split in ("train", "validation"))
    if train is None:
        return
    first, second = (rows_of(train.as_numpy_iterator()) for _ in range(2))
    if all(batch == first[0] for batch in first):
        return  # Every step is on the whole split.
    assert [row for batch in first for row in batch] != [row for batch in second for row in batch]
    if max(map(len, first)) > 1:
        assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}
    if "repeat" not in recipe.load_data.__code__.co_names:  # Otherwise an epoch is no pass.
        counts = [collections.Counter(row for batch in each for row in batch) for each in (first, second)]
        assert counts[0] == counts[1]
    again = (rows_of(validation.as_numpy_iterator()) for _ in range(2))
    assert next(again) == next(again)


def test_no_example_is_lost_whatever_the_batch_size(recipe, tiny_run, hp):
    if "batch_size" not in {each.name for each in hp.space}:
        return
    for split in ("train", "test"):
        found = []
        for each in (hp, with_batch_size(recipe, 1)):
            keras.utils.set_random_seed(0)  # Some examples are drawn at random.
            data = batches_of(recipe, each, split)
            if data is None:
                return
            found.append(count(data))
        assert int(data.cardinality()) % hp["batch_size"], "the batch size divides the tiny split: none can get lost"
        (examples, weight), (one_by_one, weight_one_by_one) = found
        assert examples == one_by_one
        # One by one, nothing is padded. A decoder's weights depend on the batch size.
        assert weight == pytest.approx(weight_one_by_one, rel=1e-5) or hasattr(recipe, "START")


@pytest.mark.recorded
def test_what_is_saved_beside_a_model_is_learned_from_the_training_split(recipe, entry, tiny_run, hp, monkeypatch):
    if not hasattr(recipe, "assets"):
        return
    splits = set()

    def noting(function):
        def read(*arguments, **options):
            splits.add(inspect.signature(function).bind(*arguments, **options).arguments["split"])
            return function(*arguments, **options)

        return read

    for each in functions(recipe).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()
    for name, each in readers(recipe).items():
        monkeypatch.setattr(recipe, name, noting(each))
    recipe.assets(hp)
    # A threshold for alarms needs an anomaly, and the training split has none.
    assert splits <= ({"train", "validation"} if entry.name == "recurrent.anomaly_detection" else {"train"})


def test_a_number_of_labels_is_that_of_the_examples_trained_on(recipe, tiny_run, hp):
    if not can_be_given(recipe, "labels"):
        return
    assert hp["labels"] in tiny_run.labels_of_training
    batches = list(recipe.load_data(hp, "train", labels=hp["labels"]).as_numpy_iterator())
    assert sum(len(labels) for _, labels in batches) == min(hp["labels"], hp["examples"])


def test_the_old_and_the_new_task_share_no_class(recipe, tiny_run, hp):
    if not can_be_given(recipe, "task"):
        return
    images, digits = recipe.read("train", hp["examples"])
    known = {image.tobytes(): digit for image, digit in zip(images, digits)}
    seen = {}
    for task in ("old", "new"):
        examples = [pair for batch in recipe.load_data(hp, "train", task) for pair in zip(*map(np.asarray, batch))]
        seen[task] = [(int(known[image.tobytes()]), int(number)) for image, number in examples]
        assert len(dict(set(seen[task]))) == len(set(seen[task])) == len({number for _, number in seen[task]}) == 5
    assert not {digit for digit, _ in seen["old"]} & {digit for digit, _ in seen["new"]}
    assert len(seen["old"]) + len(seen["new"]) == len(digits)
    few = np.concatenate([numbers for _, numbers in recipe.load_data(hp, "train", labels=10).as_numpy_iterator()])
    assert np.bincount(few).tolist() == [2] * 5


@pytest.mark.parametrize("name", ["recurrent.forecasting"])
def test_windows_are_raw_hours_on_the_scale_of_train_and_the_future_starts_where_the_past_ends(recipe, tiny_run, hp):
    def raw(split):
        columns = tfds.load("etth1", split=split).batch(20_000).get_single_element()
        return np.stack([columns[variable].numpy() for variable in recipe.VARIABLES], axis=1)

    count, look_back = hp["examples"], hp["look_back"]
    train = raw("train")
    before = {"train": train[:0], "validation": train[-look_back:], "test": raw("validation")[-look_back:]}
    scale = np.loadtxt(recipe.assets(hp)["scale.csv"].splitlines(), delimiter=",", skiprows=1, usecols=(1, 2)).T
    np.testing.assert_allclose(scale, [train[:count].mean(axis=0), train[:count].std(axis=0)], rtol=1e-4)
    for split, earlier in before.items():
        hours = np.concatenate([earlier, raw(split)[:count]])
        past, future = (each * scale[1] + scale[0] for each in recipe.windows(hp, split))
        assert len(past) == len(future) == len(hours) - look_back - recipe.HORIZON + 1
        for place in (0, 1, len(past) - 1):
            np.testing.assert_allclose(past[place], hours[place:][:look_back], rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(
                future[place], hours[place + look_back :][: recipe.HORIZON], rtol=1e-3, atol=1e-3
            )


@pytest.mark.parametrize("name", ["recurrent.anomaly_detection"])
def test_every_reading_ends_one_window_and_none_to_train_on_holds_a_label(recipe, tiny_run, hp):
    for series in recipe.SERIES:
        normal, _ = recipe.read(series, "train")
        for split in ("validation", "test"):
            readings, labels = recipe.read(series, split)
            views, touched = recipe.windows(hp, series, split)
            np.testing.assert_allclose(views[:, -1, 0] * normal.std() + normal.mean(), readings, rtol=1e-3)
            np.testing.assert_allclose(views[1:, :-1], views[:-1, 1:])
            assert touched[labels > 0].all() and touched.sum() >= np.count_nonzero(labels)
    normal = [views[~touched] for views, touched in (recipe.windows(hp, series, "train") for series in recipe.SERIES)]
    found = rows_of(recipe.load_data(hp, "train").as_numpy_iterator())
    assert sum(map(len, found)) == sum(min(hp["examples"], len(each)) for each in normal)


def test_inputs_are_standardized_by_the_training_split_alone(recipe, keras_run, hp):
    for layer in keras_run.model.layers:
        if isinstance(layer, keras.layers.Normalization):
            inputs = np.concatenate([inputs for inputs, _ in recipe.load_data(hp, "train").as_numpy_iterator()])
            np.testing.assert_allclose(np.ravel(layer.mean), np.nanmean(inputs, axis=0), rtol=1e-4)


@pytest.mark.parametrize("name", ["recurrent.tagging"])
def test_more_padding_behind_the_characters_of_a_word_changes_no_tag(recipe, keras_run, hp):
    rows, numbers, spellings = first_batch(recipe, keras_run.model, hp)
    longer = recipe.build_model(settings.build(recipe.configure, {**recipe.TINY, "word_length": hp["word_length"] + 5}))
    longer.set_weights(keras_run.model.get_weights())
    padded = [rows, numbers, np.pad(spellings, ((0, 0), (0, 5)))]
    expected = call(keras_run.model, [rows, numbers, spellings])
    np.testing.assert_allclose(call(longer, padded), expected, rtol=1e-4, atol=1e-5)
