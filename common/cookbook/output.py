"""What is printed: on any standard output, and without control characters that come from files."""

import io
import os
import re
import sys


def prepare():
    """Makes printing possible on a standard output that is closed, or whose encoding lacks some characters."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not so in a notebook.
        sys.stdout.reconfigure(errors="backslashreplace")


def finish():
    """Flushes standard output; if that fails, gives it up, or Python would fail again at its end."""
    try:
        sys.stdout.flush()
    except OSError:  # Nothing reads it any more, or the disk is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text):
    """The text with control characters but tab and newline as escapes: a terminal would obey those from a file."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], str(text))
