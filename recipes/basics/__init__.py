"""The basics: one idea at a time, on data small enough to see it."""
