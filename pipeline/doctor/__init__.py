"""Report on this machine, and a self-test of the stages on it."""
