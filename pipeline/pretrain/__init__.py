"""Train a network from scratch: SimCLR, MoCo v2 or supervised."""
