"""Trains networks: samples become targets, and a flat loop does the rest."""
