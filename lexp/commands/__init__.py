"""One module per command: from a composed config to files and tables."""
