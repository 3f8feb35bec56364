"""numenta: three labelled time series of the Numenta anomaly benchmark."""

from .numenta_dataset_builder import Builder

__all__ = ["Builder"]
