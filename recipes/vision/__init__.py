"""Convolutional networks and what they learn to see."""
