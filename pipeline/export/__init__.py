"""Stage ``export``: a network's weights, model card and ONNX file for others."""
