"""The recipes: one file is one recipe, a folder is a chapter."""

import os
import sys

from common.cookbook import command_line

# TensorFlow's C++ log says nothing that a reader of recipes needs; it must be silenced before the import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Python imports this package before the recipe that it runs, and with the recipe TensorFlow.
command_line.prepare(sys.orig_argv)
