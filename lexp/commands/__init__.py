"""What each command does: the composition root, from a composed config to files and tables."""
