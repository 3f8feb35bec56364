"""The recipes: one file is one recipe, a folder is a chapter."""

import os
import sys

from common.cookbook import command_line

# TensorFlow's C++ log is of no use here; it must be silenced before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Python imports this package before the recipe that it runs, which imports TensorFlow.
command_line.prepare(sys.orig_argv)
