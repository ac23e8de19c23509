"""What this machine has, and whether the stages work on it."""
