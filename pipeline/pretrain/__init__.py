"""A teacher where none can be had (self-supervised), and the baselines trained from nothing, with labels or without."""
