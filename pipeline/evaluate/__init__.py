"""Stage three: evaluate the features of a network or a store; one folder per evaluation."""
