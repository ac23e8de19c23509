"""Compress large self-supervised vision models into small ones: embed once, distil many students, evaluate them."""
