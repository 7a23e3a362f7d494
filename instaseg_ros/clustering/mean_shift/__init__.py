"""Mean shift over an embedding (De Brabandere et al. 2017)."""
