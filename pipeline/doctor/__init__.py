"""Report on this machine, and a self-test of embed, distill and evaluate on it."""
