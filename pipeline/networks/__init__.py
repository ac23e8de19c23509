"""Architectures, teachers and students, their preprocessing and their weights."""
