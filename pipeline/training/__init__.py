"""Training loop, schedule, EMA, metrics and checkpoints of all trainings."""
