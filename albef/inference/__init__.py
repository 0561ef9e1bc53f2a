"""Inference with trained models: encoding, ITM re-ranking, answer search, Grad-CAM."""
