"""Run folders: settings, checkpoints, locks, status."""
