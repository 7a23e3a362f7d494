"""Metrics of the field as pure functions over counts, summed over frames."""
