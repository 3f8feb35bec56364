"""Recurrent networks: sequences in, labels or sequences out."""
