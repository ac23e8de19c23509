"""Train a network from scratch: a self-supervised teacher where none is published, and the baselines of the results."""
