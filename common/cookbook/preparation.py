"""Prepares a recipe's data before the seed is set, since preparing data changes the random state."""

import pathlib
import random
import re
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from common.cookbook import errors, integrity

# Errors of the network or the disk; any other is a bug in a dataset builder, and no reason to skip its tests.
FAILURES = (
    OSError,
    tf.errors.ResourceExhaustedError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
)
ENVIRONMENT = "environment/"  # A reinforcement-learning environment; there is nothing to prepare.


class Unavailable(errors.RecipeError):
    """A data set is not on this machine and cannot be downloaded."""


def prepare(names):
    """Prepares the data sets that are not ready yet, in order; leaves the random state of Python and NumPy as it was.

    names: of TFDS data sets ("mnist", "glue/sst2") or environments ("environment/CartPole-v1").

    Raises:
        Unavailable: a data set is not on this machine and cannot be downloaded.
    """
    state = random.getstate(), np.random.get_state()
    try:
        for name in names:
            if not name.startswith(ENVIRONMENT):
                prepare_one(name)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])


def prepare_one(name):
    """Downloads and prepares a data set, after checking that the host can be reached.

    TFDS itself retries an unreachable host ten times, for minutes.

    Raises:
        Unavailable: the message names the data set, its size, where TFDS looks, and what to do.
        errors.Damaged: a file that was downloaded or prepared before is damaged.
    """
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        raise Unavailable(f"TFDS has no data set {name!r}") from error
    except Exception as error:  # TFDS changes the classes of what reading a damaged file raises.
        integrity.blame_files(name, error)
        raise
    ready = pathlib.Path(builder.data_path, "dataset_info.json")
    if not ready.exists():
        integrity.check_downloads(builder)
        download_and_prepare(builder, ready)
    integrity.check_prepared(builder)


def download_and_prepare(builder, ready):
    """Prepares the data of a builder, until the file `ready` exists; raises as `prepare_one` does."""
    missing = {
        url: info.size
        for url, info in (builder.url_infos or {}).items()
        if not integrity.cached(builder, url, info.checksum)
    }
    name, size = builder.info.full_name, f"{sum(missing.values()) / 2**20:.1f} MiB"
    try:
        for url in list(missing)[:1]:
            print(f"{name}: downloading {size} to {builder.data_dir_root}/downloads")
            reach(url)
        builder.download_and_prepare()
    except Exception as error:  # TFDS wraps what writing a shard raises in errors of its own.
        full = next(filter(is_full_disk, causes(error)), None)
        if full:
            named = re.search(r"(\S+); No space left", str(full))  # As TensorFlow says it.
            where = named[1] if named else getattr(full, "filename", None) or builder.data_dir_root
            raise errors.RecipeError(f"the disk is full ({where}): free some space, then rerun this") from error
        if not isinstance(error, FAILURES):
            raise
        if ready.exists():  # Another process prepared it in the meantime.
            return
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unavailable(
            f"data set {name} ({size} to download) is not in {builder.data_path} and could not be prepared: {reason}; "
            f"rerun this with a network connection, or copy the prepared data there (or set TFDS_DATA_DIR)"
        ) from error


def causes(error):
    """The error, the one it was raised from, and so on."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error):
    """Whether an error of Python, of TensorFlow or of TFDS, which checks before it downloads, means a full disk."""
    told = "Not enough disk space" in str(error) or isinstance(error, tf.errors.ResourceExhaustedError)
    return told or getattr(error, "errno", None) in errors.FULL


def reach(url):
    """Checks once that the host responds; any response will do."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        pass


def describe(recipe):
    """The version of each data set, and the number of examples in every split that the recipe names."""
    described = {}
    for name in recipe.PROMISE["data"]:
        if name.startswith(ENVIRONMENT):
            described[name] = {"splits": recipe.SPLITS}
            continue
        info = tfds.builder(name).info
        # A data set that another is built from may have different splits.
        splits = {split: info.splits[part].num_examples for split, part in recipe.SPLITS.items() if has(info, part)}
        described[name] = {"version": str(info.version), "splits": splits}
    return described


def has(info, part):
    """Whether a data set has the split "train[:90%]" or each of "a[:10]+b[:10]"."""
    return all(piece.split("[")[0] in info.splits for piece in part.split("+"))
