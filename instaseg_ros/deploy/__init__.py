"""Prepares weights for a machine: export, quantisation, and a check of all runtimes."""
