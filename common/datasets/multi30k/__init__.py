"""multi30k: captions of photographs in English, German and French."""

from .multi30k_dataset_builder import Builder

__all__ = ["Builder"]
