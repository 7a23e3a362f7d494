"""Frames of a dataset through a pipeline, and what comes of it in the field's numbers."""
