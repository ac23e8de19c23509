"""Checks of a store: its bytes on a Dask cluster, and a sample of its images embedded again."""
