"""Image metrics beside LASI."""
