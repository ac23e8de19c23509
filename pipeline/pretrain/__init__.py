"""A self-supervised teacher where none can be had, and the paper's from-scratch baseline."""
