"""The version of this release; packaging reads it from here."""

VERSION = "0.1.0"
