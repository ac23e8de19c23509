"""Nearest neighbour and weighted k-NN, also live during a training."""
