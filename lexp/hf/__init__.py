"""Causal language models of Hugging Face: their layers, with attention and positions of lexp.

Queries, keys and values come out of a model's own layers before any position is in them; patterns,
extensions and instruments then work on them as on lexp's own models. `transformers` is imported
when a model is opened, and is optional.
"""
