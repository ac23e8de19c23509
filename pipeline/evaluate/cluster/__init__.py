"""Cluster alignment: k-means, clusters mapped to classes."""
