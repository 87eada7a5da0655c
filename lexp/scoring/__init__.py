"""Protocols, the scorer and per-token losses."""
