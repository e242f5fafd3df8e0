"""Candidate sources, a file each."""
