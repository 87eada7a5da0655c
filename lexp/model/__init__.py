"""The language model: trunk, heads and losses."""
