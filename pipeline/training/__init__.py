"""The training loop, shared by distillation, pre-training and the fine-tuning of detectors."""
