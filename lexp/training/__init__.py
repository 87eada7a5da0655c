"""Pretraining and fine-tuning: loop, objectives, optimiser."""
