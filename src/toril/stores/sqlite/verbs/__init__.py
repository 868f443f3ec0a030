"""The verbs of the embedded store: each a function from a transaction and its arguments to its answer."""
