"""Algorithmic tasks, one per file: rule, source, format."""
