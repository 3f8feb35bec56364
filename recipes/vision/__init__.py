"""Vision: convolutional networks and what they learn to see."""
