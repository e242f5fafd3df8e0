"""The `tandem` command: the one place that knows trainer, services and client; each is imported when it is used."""
