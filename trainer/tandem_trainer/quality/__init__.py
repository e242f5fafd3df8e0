"""Comparing ways of recommending on held-out events: one cut, the same users, full ranking, one table."""
