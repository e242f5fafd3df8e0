"""Items that change between two bundles."""
