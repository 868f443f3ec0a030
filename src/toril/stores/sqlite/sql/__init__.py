"""The statements of the embedded store."""
