"""Instruments: measurements of what attention and hidden states do."""
