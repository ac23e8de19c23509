"""Sharing work out to processes, here or on other machines, by dask.distributed: ``cluster.py`` opens, ``tasks.py`` does."""
