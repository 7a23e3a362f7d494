"""Benchmarks behind `instaseg bench`."""
