"""Files that are damaged: told in one line that names the file, before anything is trained or lost."""

import errno
import hashlib
import json
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import resource

from common import callbacks, files
from common.cookbook import catalogue, errors, integrity, output, preparation, results, search
from common.datasets import sums
from conftest import Killed
from recipes import __main__ as commands
from standin import StandIn, dispatch, execute

DAMAGED = {
    "empty": b"",
    "cut": b'{"recipe": "seq2seq.add',
    "another type": b"[]",
    "no keys": b"{}",
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
}
damaged = pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)


@pytest.fixture
def killed(tmp_path):
    """A run that was killed in its second epoch."""

    def kill(epoch, logs, agent):
        if epoch == 1:
            raise Killed

    recipe = StandIn()
    recipe.at_epoch = kill
    with pytest.raises(Killed):
        execute(recipe, tmp_path)
    return tmp_path


def test_a_killed_run_resumes(killed):
    assert execute(StandIn(), killed, resume=True)["metrics"]["accuracy"] == 2.0


@damaged
def test_a_damaged_run_file_is_named_and_a_fresh_start_goes_past_it(content, killed, capsys):
    path = killed / "backup" / "identity.json"
    path.write_bytes(content)
    with pytest.raises(errors.Damaged, match=f"^{path} is damaged: [^\n]*$"):
        execute(StandIn(), killed, resume=True)
    assert execute(StandIn(), killed)["metrics"]["accuracy"] == 2.0
    assert (killed / "backup-previous" / "identity.json").read_bytes() == content
    assert "backup-previous; it can't be resumed" in capsys.readouterr().out


@damaged
def test_a_damaged_results_file_is_named_and_a_fresh_start_moves_it(content, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(errors.Damaged, match=f"^{path} is damaged: [^\n]*$"):
        dispatch(StandIn(), "--variants", "--out", str(tmp_path))
    execute(StandIn(), tmp_path)
    assert f"{path} is damaged; it was moved to {tmp_path / 'results-damaged.json'}" in capsys.readouterr().out
    assert (tmp_path / "results-damaged.json").read_bytes() == content
    assert results.read(path)["metrics"]["accuracy"] == 2.0


@damaged
def test_damaged_results_do_not_cut_the_list_short(content, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_bytes(content)
    monkeypatch.setattr(catalogue.Entry, "directory", tmp_path)
    assert commands.main([]) == 0
    assert capsys.readouterr().out.count(f"{tmp_path / 'results.json'} is damaged") == len(catalogue.entries())


def test_every_key_that_results_are_read_for_is_looked_at(tmp_path):
    measured = execute(StandIn(), tmp_path)
    for key in results.RESULTS:
        files.write_json(tmp_path / "results.json", {name: value for name, value in measured.items() if name != key})
        with pytest.raises(errors.Damaged):
            results.read(tmp_path / "results.json")
    changes = [
        {"figure": {**measured["figure"], "mean": "0.9"}},
        {"metrics": {"chance": 0.0}},
        {"published": {**measured["published"], "metric": "recall"}},
        {"cpu_seconds": "7"},
        {"variants": []},
    ]
    for change in changes:
        files.write_json(tmp_path / "results.json", {**measured, **change})
        with pytest.raises(errors.Damaged):
            results.read(tmp_path / "results.json")


@pytest.mark.parametrize("mean", [np.nan, np.inf])
def test_a_figure_that_is_no_number_is_no_damage(mean, tmp_path, monkeypatch, capsys):
    measured = execute(StandIn(), tmp_path)
    measured["figure"] |= {"mean": mean, "values": [mean, mean], "sd": mean}
    files.write_json(tmp_path / "results.json", measured)
    monkeypatch.setattr(catalogue.Entry, "directory", tmp_path)
    assert commands.main([]) == 0
    assert f"accuracy {mean} ± {mean}" in capsys.readouterr().out


def test_a_directory_in_place_of_results_is_named(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(errors.Damaged, match=f"^{tmp_path / 'results.json'} is damaged: [^\n]*$"):
        results.read(tmp_path / "results.json")


@damaged
def test_a_damaged_file_of_a_search_is_named(content, tmp_path):
    path = tmp_path / "space.json"
    path.write_bytes(content)
    entry = types.SimpleNamespace(name="stand.in", pinned=[])
    options = types.SimpleNamespace(search=1, tuner="random", seed=0)
    with pytest.raises(errors.Damaged, match=f"^{path} is damaged: [^\n]*$"):
        search.search(entry, StandIn(), {}, options, tmp_path)


def rewritten(path, change):
    """Changes the arrays that a backup consists of."""
    with np.load(path) as saved:
        arrays = change(dict(saved))
    np.savez(path, **arrays)


def changed(arrays, **values):
    """The state in these arrays with other values."""
    return json.dumps({**json.loads(str(arrays["state"])), **values})


def flipped(content):
    """The content with a bit changed in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "no archive": lambda path: path.write_bytes(b"nonsense"),
    "no state": lambda path: rewritten(path, lambda arrays: {k: v for k, v in arrays.items() if k != "state"}),
    "a state without keys": lambda path: rewritten(path, lambda arrays: {**arrays, "state": "{}"}),
    "a deep state": lambda path: rewritten(path, lambda arrays: {**arrays, "state": "[" * 100_000}),
    "no weight": lambda path: rewritten(path, lambda arrays: {"state": arrays["state"]}),
    "another state": lambda path: rewritten(path, lambda arrays: {**arrays, "state": changed(arrays, epochs="two")}),
    "more passes": lambda path: rewritten(path, lambda arrays: {**arrays, "state": changed(arrays, passes=[1, 2])}),
    "another shape": lambda path: rewritten(path, lambda arrays: {**arrays, "model/0": np.zeros((2, 3))}),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_backup_is_named_and_a_fresh_start_goes_past_it(damage, killed):
    path = killed / "backup" / "seed-0" / "agent.npz"
    damage(path)
    with pytest.raises(errors.Damaged, match=f"^{path} [^\n]*; start again without --resume$"):
        execute(StandIn(), killed, resume=True)
    assert path.exists(), "nothing is removed"
    assert execute(StandIn(), killed)["metrics"]["accuracy"] == 2.0


def test_weights_that_keras_cannot_open_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    weights = tmp_path / "models" / "mobilenet_2_5_224_tf_no_top.h5"
    weights.write_bytes(b"\x89HDF\r\n\x1a\n cut")
    recipe = StandIn()
    recipe.train = lambda *given: keras.Sequential([keras.layers.Dense(1)]).load_weights(weights)
    with pytest.raises(errors.Damaged, match=f"^the weights of this network in {weights.parent} are damaged [^\n]*$"):
        execute(recipe, tmp_path / "run")


def test_what_a_killed_write_leaves_is_no_backup(killed):
    (killed / "backup" / "seed-0" / "agent.npz.abc.unfinished").mkdir()
    assert callbacks.elapsed_so_far(killed / "backup" / "seed-0")["seconds"] > 0


CONTENT = b"what was published"


def builder_with(tmp_path, content, folder):
    """Stands in for a builder; what it downloaded lies in `folder`, another file is still to be downloaded."""
    checksum = hashlib.sha256(CONTENT).hexdigest()
    url = "https://nowhere.org/data.zip"
    path = tmp_path / "downloads" / folder / resource.get_dl_fname(url, checksum)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    resource.get_info_path(path).write_text("{}")
    infos = {name: types.SimpleNamespace(checksum=checksum) for name in ("https://nowhere.org/missing.zip", url)}
    info = types.SimpleNamespace(full_name="data/1.0.0")
    return types.SimpleNamespace(data_dir_root=tmp_path, name="data", url_infos=infos, info=info), path


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("content", [b"", CONTENT[:-1], flipped(CONTENT)], ids=["empty", "cut", "flipped"])
def test_a_download_that_is_not_what_was_published_is_named(content, folder, tmp_path):
    builder, path = builder_with(tmp_path, content, folder)
    with pytest.raises(errors.Damaged, match=f"^data set data/1.0.0: {path} is not .*: delete it"):
        integrity.check_downloads(builder)
    path.write_bytes(CONTENT)
    integrity.check_downloads(builder)


def test_downloads_are_checked_before_the_data_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    url, info = next(iter(tfds.builder("kmnist").url_infos.items()))
    path = tmp_path / "downloads" / resource.get_dl_fname(url, info.checksum)
    files.write_text(path, "another file")
    files.write_text(resource.get_info_path(path), "{}")
    with pytest.raises(errors.Damaged, match=f"^data set kmnist[^\n]*{path}[^\n]*: delete it"):
        preparation.prepare(["kmnist"])


def write_records(path, count=3):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(count):
            writer.write(f"record {number}")


SHARDS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in a record": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "cut after a record": lambda path: write_records(path, 2),
    "a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
}


@pytest.mark.parametrize("damage", SHARDS.values(), ids=SHARDS)
def test_a_damaged_shard_of_any_split_is_named(damage, tmp_path):
    paths = [tmp_path / f"data-test.tfrecord-0000{number}-of-00002" for number in range(2)]
    for path in paths:
        write_records(path)
    split = types.SimpleNamespace(filepaths=paths, shard_lengths=[3, 3])
    info = types.SimpleNamespace(full_name="data/1.0.0", splits={"test": split})
    builder = types.SimpleNamespace(info=info, data_path=tmp_path)
    damage(paths[1])
    with pytest.raises(
        errors.Damaged, match=f"^data set data/1.0.0: {paths[1]} is missing or damaged: delete {tmp_path},"
    ):
        integrity.check_prepared(builder)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The directory of a prepared data set, in a data directory of its own."""
    preparation.prepare([sums.Builder.name])
    directory = tfds.builder(sums.Builder.name).data_path
    copied = tmp_path / directory.parent.name / directory.name
    shutil.copytree(directory, copied)
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    return copied


def test_data_are_checked_before_the_training(prepared):
    preparation.prepare([sums.Builder.name])
    (shard,) = prepared.glob("*-test.tfrecord*")
    integrity.is_whole.cache_clear()
    shard.unlink()
    recipe = StandIn()
    recipe.PROMISE = {**recipe.PROMISE, "data": [sums.Builder.name]}
    recipe.train = None
    with pytest.raises(errors.Damaged, match=f"^data set sums/1.0.0: {shard} is missing"):
        execute(recipe, prepared.parents[1] / "run")


@pytest.mark.parametrize("content", ["", "{", "{}", "[" * 100_000], ids=["empty", "cut", "no version", "deep"])
def test_a_damaged_description_of_a_data_set_is_told_in_one_line(content, prepared):
    (prepared / "dataset_info.json").write_text(content)
    with pytest.raises(errors.Damaged, match=f"^data set sums in {prepared.parent} is damaged [^\n]*: delete [^\n]*$"):
        preparation.prepare([sums.Builder.name])


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "sums-train.tfrecord"),
    OSError("Not enough disk space. Needed: 3 GiB (download: 1 GiB, generated: 2 GiB)"),
    tf.errors.ResourceExhaustedError(None, None, "sums-train.tfrecord; No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=["Python", "TFDS", "TensorFlow"])
def test_a_full_disk_is_not_taken_for_a_missing_network(error, tmp_path, monkeypatch):
    def full(self, **options):
        raise error

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", full)
    place = "sums-train.tfrecord" if "sums-train" in str(error) else tmp_path
    with pytest.raises(errors.RecipeError, match=rf"^the disk is full \({place}\): [^\n]*$") as told:
        preparation.prepare([sums.Builder.name])
    assert not isinstance(told.value, preparation.Unavailable), "the tests of its recipes would be skipped"


@pytest.mark.parametrize(
    "error, place",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/a.tfrecord"), "/data/a.tfrecord"),
        (tf.errors.ResourceExhaustedError(None, None, "/data/b.tfrecord; No space left on device"), "/data/b.tfrecord"),
    ],
    ids=["Python", "TensorFlow"],
)
def test_a_disk_that_is_full_when_a_shard_is_written_is_called_so(error, place, tmp_path, monkeypatch):
    class Writer:
        def __init__(self, *given):
            raise error

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tf.io, "TFRecordWriter", Writer)
    with pytest.raises(errors.RecipeError, match=rf"^the disk is full \({place}\): [^\n]*$"):
        preparation.prepare([sums.Builder.name])


def test_escape_codes_from_files_are_not_sent_to_the_terminal(tmp_path, monkeypatch, capsys):
    assert output.printable("a\tb\n\x1b[2J\x9b\r é") == "a\tb\n\\x1b[2J\\x9b\\r é"
    recipe = StandIn()
    recipe.shown = {"sum": "a text of the data: \x1b[2J"}
    measured = execute(recipe, tmp_path)
    measured["figure"]["name"] = "\x1b[2J"
    measured["metrics"]["\x1b[2J"] = 2.0
    files.write_json(tmp_path / "results.json", measured)
    monkeypatch.setattr(catalogue.Entry, "directory", tmp_path)
    commands.main([])
    told = capsys.readouterr().out
    assert "\x1b" not in told and told.count("\\x1b[2J") > 2


def test_a_file_that_may_not_be_read_is_not_called_damaged(prepared, monkeypatch):
    def forbidden(*given, **options):
        raise tf.errors.PermissionDeniedError(None, None, "Permission denied")

    monkeypatch.setattr(tf.data, "TFRecordDataset", forbidden)
    integrity.is_whole.cache_clear()
    with pytest.raises(
        errors.RecipeError, match="^cannot read [^\n]*: let this user read it, or set TFDS_DATA_DIR$"
    ) as told:
        preparation.prepare([sums.Builder.name])
    assert not isinstance(told.value, errors.Damaged)
