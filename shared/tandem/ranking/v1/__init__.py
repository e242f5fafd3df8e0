"""Generated from protos/, never edited: see `make protos`."""
