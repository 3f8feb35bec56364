"""The recipes: one file is one recipe, a folder is a chapter."""

import os

# TensorFlow's C++ log says nothing a reader of recipes needs; it must be silenced before the import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
