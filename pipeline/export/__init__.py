"""Export of a network for others: weights, model card, ONNX."""
