"""Pixels that vote for one box centre become an instance (Wu et al. 2016)."""
