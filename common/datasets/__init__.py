"""TFDS builders for data that TFDS itself does not know."""
