"""Pictures of several mnist digits, and captions that tell how they lie."""

from .mnist_scenes_dataset_builder import Builder

__all__ = ["Builder"]
