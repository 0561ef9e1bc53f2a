"""ALBEF (Li et al., NeurIPS 2021): vision-language pretraining with momentum distillation as a system."""

__version__ = "0.1.0"
