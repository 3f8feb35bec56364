"""Sums of two numbers, written as text."""

from .sums_dataset_builder import Builder

__all__ = ["Builder"]
