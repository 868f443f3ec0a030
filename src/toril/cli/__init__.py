"""The command `toril`: parse, call, answer."""
