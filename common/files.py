"""Atomic writes: a file is complete, or it is not there."""

import json
import os


def replace(path, write):
    """Writes a file under another name, then renames it, so that a kill leaves either the old or the new one.

    path: a `pathlib.Path`; its directory is created.
    write: a function that is called with the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with open(unfinished, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def write_text(path, text):
    """Replaces a text file atomically."""
    replace(path, lambda file: file.write(text.encode()))


def write_json(path, value):
    """Replaces a JSON file atomically, indented for reading."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
