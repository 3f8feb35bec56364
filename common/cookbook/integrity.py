"""Whether downloads and prepared data are what they should be; TFDS itself trusts what lies in its directories."""

import functools
import hashlib
import os
import pathlib

import tensorflow as tf
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import resource

from common.cookbook import errors


def cached(builder, url, checksum):
    """Where TFDS finds a file that was downloaded before, None if it was not."""
    downloads = pathlib.Path(builder.data_dir_root, "downloads")
    name = resource.get_dl_fname(url, checksum)
    # Earlier versions of TFDS had one folder for all data sets.
    found = [path for path in (downloads / builder.name / name, downloads / name) if resource.is_locally_cached(path)]
    return found[0] if found else None


def check_downloads(builder):
    """Compares the files downloaded for a data set with the checksums that are registered for them.

    Raises:
        errors.Damaged: names the first file that differs.
    """
    for url, info in (builder.url_infos or {}).items():
        path = cached(builder, url, info.checksum)
        if path is None:
            continue
        with errors.about(path, "let this user read it, or set TFDS_DATA_DIR"), open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != info.checksum:
            told = f"data set {builder.info.full_name}: {path} is not the file that was published"
            raise errors.Damaged(f"{told}: delete it, then rerun this")


def check_prepared(builder):
    """Reads all records of a prepared data set, so that TensorFlow compares their checksums.

    Raises:
        errors.Damaged: names the first file that is missing or damaged.
    """
    for split in builder.info.splits.values():
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            if not is_whole(str(path), length):
                raise errors.Damaged(
                    f"data set {builder.info.full_name}: {path} is missing or damaged: "
                    f"delete {builder.data_path}, then rerun this to prepare the data anew"
                )


@functools.cache
def is_whole(path, length):
    """Whether a file of records has `length` of them, none of them damaged; every file is read once in a process."""
    try:
        # Counting one record at a time would take ten times as long.
        return sum(map(len, tf.data.TFRecordDataset(path, buffer_size=2**20).batch(1024))) == length
    except tf.errors.PermissionDeniedError:
        raise errors.RecipeError(f"cannot read {path}: let this user read it, or set TFDS_DATA_DIR") from None
    except tf.errors.OpError:
        return False


def blame_weights(error):
    """Raises errors.Damaged for the error with which Keras failed to open weights, of which it compares no checksum."""
    if "open file (" in str(error):  # From HDF5, which does not name the file.
        directory = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras"), "models")
        told = f"the weights of this network in {directory} are damaged ({errors.one_line(str(error))})"
        raise errors.Damaged(f"{told}: delete them, then rerun this") from error


def blame_files(name, error):
    """Raises errors.Damaged for the error with which TFDS failed to open a data set, if it was prepared before."""
    directory = pathlib.Path(constants.DATA_DIR, name)
    if any(directory.rglob("dataset_info.json")):
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        told = f"data set {name} in {directory} is damaged ({reason})"
        raise errors.Damaged(f"{told}: delete that directory, then rerun this") from error
