"""Images of several MNIST digits, with captions that describe how they are arranged."""

from .mnist_scenes_dataset_builder import Builder

__all__ = ["Builder"]
