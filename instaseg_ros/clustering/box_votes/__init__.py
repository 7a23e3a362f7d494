"""Groups pixels that vote for the same box centre into instances (Wu et al. 2016)."""
