"""Evaluates a pipeline on a dataset with the field's usual metrics."""
