"""Metrics: pure functions over overlap counts, checked against the reference packages."""
