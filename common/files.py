"""Atomic writes: a file is complete, or it is not there."""

import contextlib
import json
import os
import pathlib
import tempfile


@contextlib.contextmanager
def replacing(path):
    """Yields where to write a file that then replaces `path` at once: a kill leaves either the old or the new one.

    path: a `pathlib.Path`; its directory is created.

    Raises:
        OSError: names `path` where the system names no file, as it does when the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".unfinished", f"{path.name}.", path.parent) as folder:
            unfinished = pathlib.Path(folder, path.name)
            yield unfinished
            with open(unfinished, "r+b") as file:  # Windows flushes only files that may be written.
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def replace(path, write):
    """Replaces a file atomically; `write` is a function that is called with the open binary file."""
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        write(file)


def write_text(path, text):
    """Replaces a text file atomically."""
    replace(path, lambda file: file.write(text.encode()))


def write_json(path, value):
    """Replaces a JSON file atomically, indented for reading."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
