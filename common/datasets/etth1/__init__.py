"""etth1: two years of an electricity transformer, hour by hour."""

from .etth1_dataset_builder import Builder

__all__ = ["Builder"]
