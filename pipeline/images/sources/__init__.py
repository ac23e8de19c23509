"""Sources of images: one protocol (``source.ImageSource``), one file per kind; ``open_source.py`` chooses the kind."""
