"""Stanford Sentiment Treebank: sentences as binary trees with the sentiment of every node."""

from .stanford_sentiment_treebank_dataset_builder import Builder, parse

__all__ = ["Builder", "parse"]
