"""Errors that the user can fix."""

import contextlib
import errno
import pathlib

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # The disk, or what a user may take of it.


def one_line(text):
    """A message without its line breaks."""
    return " ".join(text.splitlines())


class RecipeError(Exception):
    """Reported in one line, without a traceback: what was wrong, and what to do."""

    def __str__(self):
        return one_line(super().__str__())


class Damaged(RecipeError):
    """A file does not hold what was written to it."""


def full_disk(error, remedy):
    """What is reported for an OSError whose number is one of FULL."""
    return f"the disk is full{f' ({error.filename})' if error.filename else ''}: free some space, then {remedy}"


@contextlib.contextmanager
def about(given, remedy):
    """Turns an OSError about a path that the user gave, or about one above or below it, into a RecipeError.

    A full disk is no mistake in the path, so that error is passed on.
    """
    try:
        yield
    except OSError as error:
        path = error.filename2 or error.filename
        if path is None or error.errno in FULL:
            raise
        path, given = pathlib.Path(str(path)).absolute(), given.absolute()
        if not (path.is_relative_to(given) or given.is_relative_to(path)):
            raise
        # `mkdir` says "File exists" of whatever is in its way, such as a link to nowhere.
        reason = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise RecipeError(f"cannot use {path}: {reason}; {remedy}") from None
