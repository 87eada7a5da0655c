"""The conversion of a composed config to checked settings and objects."""
