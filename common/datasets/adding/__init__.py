"""The adding problem: remember the two marked numbers of a long sequence, and add them."""

from .adding_dataset_builder import Builder

__all__ = ["Builder"]
