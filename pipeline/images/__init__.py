"""Images: sources, the index, augmentation policies, renderers, and packs."""
