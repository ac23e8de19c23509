"""Stage three: what the features are worth. One file an evaluation, each a pure function on arrays."""
