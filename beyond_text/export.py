"""The command that writes a run's model as files that other programs read."""
