"""Settings, errors, progress, device and the other modules that all stages share."""
