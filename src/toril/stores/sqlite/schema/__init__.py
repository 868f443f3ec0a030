"""The numbered migrations of the embedded store."""
