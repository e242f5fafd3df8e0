"""Where users live: their events and attributes, behind one small interface."""
