"""File names inside a run's folder."""

MODEL_FILE = "model.safetensors"
"""The network: torchvision's own keys, no classifier; its preprocessing is in the header."""

SETTINGS_FILE = "settings.json"  # Settings, inputs and library versions of the run

CHECKPOINT_FILE = "checkpoint.pt"  # everything a resumed run needs

METRICS_FILE = "metrics.jsonl"  # one JSON object per logged step

BEST_FOLDER, EPOCH_FOLDER = "best", "epoch-{:04d}"  # Sub-folders with the network of an earlier epoch
