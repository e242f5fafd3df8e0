"""The writer process of the ranking deployment: events, users and live items in, so that fsync never holds a server."""
