"""Sources of images behind one protocol, one file per kind."""
