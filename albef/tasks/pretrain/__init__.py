"""Vision-language pretraining."""
