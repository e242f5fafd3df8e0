"""What `tandem bench serve` is made of: bundles, processes, load, the inner parts, the table."""
