"""From a composed config to checked settings and objects."""
