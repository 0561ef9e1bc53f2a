"""Export: ONNX graphs with proof of parity, and the Triton model repository."""
