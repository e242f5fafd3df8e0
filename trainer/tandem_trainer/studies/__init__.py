"""Questions asked of held-out data: a module each, printed by `tandem bench`."""
