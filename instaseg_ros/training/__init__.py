"""Training: data to targets, and a flat loop."""
