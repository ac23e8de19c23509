"""Stage three: score the features of a network or a store; one folder per family of evaluations."""
