"""Errors that a person can mend."""


class RecipeError(Exception):
    """Something to be told in one line, without a traceback: what was wrong, and what to do."""
