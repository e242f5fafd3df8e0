"""Vector indexes, a file each."""
