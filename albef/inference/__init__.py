"""Inference on a trained model: encoding, ITM re-ranking, answer search, Grad-CAM."""
