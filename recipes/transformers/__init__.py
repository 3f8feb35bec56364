"""Transformers: attention instead of recurrence."""
