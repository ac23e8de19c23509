"""A network for others: plain weights, a model card, ONNX."""
