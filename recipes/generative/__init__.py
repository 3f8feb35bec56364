"""Generative models: images made from noise, and how likely they are."""
