"""Comparisons on held-out data, one file each."""
