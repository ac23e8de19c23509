"""Linear classifiers on frozen features, also on few labels."""
