"""Checks that repeat one thing very often or under a heavy load: `nox -s long`."""
