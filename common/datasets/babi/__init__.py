"""bAbI tasks 1 to 5: short stories in simple English, and questions about them."""

from .babi_dataset_builder import Builder

__all__ = ["Builder"]
