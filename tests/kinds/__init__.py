"""One small recipe of every kind that the shape of a recipe must carry: fixtures of the tests, no part of the book."""
