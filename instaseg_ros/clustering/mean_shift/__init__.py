"""Clusters an embedding by mean shift (De Brabandere et al. 2017)."""
