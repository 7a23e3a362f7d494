"""Clusters pixels into instances: one folder per algorithm, and what they share."""

MAX_INSTANCES = 65535  # that a uint16 label image can distinguish
