"""A detector around a network: how it is built, what it is shown, what is drawn of it."""
