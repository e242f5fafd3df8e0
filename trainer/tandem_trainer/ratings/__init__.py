"""Models that predict what a user would rate an item, and their comparison on held-out ratings."""
