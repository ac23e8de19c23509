"""Renderers behind one protocol: DALI, and torchvision as the reference."""
