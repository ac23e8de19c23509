"""Published checkpoints: safe reading, their layouts, the backbone in them."""
