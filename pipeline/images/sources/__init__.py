"""Where images come from: one interface (``source.ImageSource``), a file a kind. ``open_source.py`` chooses."""
