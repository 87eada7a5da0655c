"""The `lexp` command: parse the command word, guard Hydra, hand over to a command."""
