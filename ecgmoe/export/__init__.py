"""A trained predictor as one graph: what `torch.export` and ONNX need, without Python control flow over data."""
