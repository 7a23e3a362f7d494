"""Clustering pixels into instances: one folder for each algorithm, and what they share."""

MAX_INSTANCES = 65535  # what a uint16 label image can tell apart
