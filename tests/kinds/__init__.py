"""One small recipe of every kind that a recipe's shape must support: test fixtures, not part of the cookbook."""
