"""Export of models: verified ONNX graphs and the Triton model repository."""
