"""Errors that the user can fix."""


class RecipeError(Exception):
    """Reported in one line, without a traceback: what was wrong, and what to do."""


class Damaged(RecipeError):
    """A file does not hold what was written to it."""
