"""Images: sources, index, augmentation policies, renderers, packs."""
