"""etth1: hourly measurements of an electricity transformer over two years."""

from .etth1_dataset_builder import Builder

__all__ = ["Builder"]
