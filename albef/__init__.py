"""ALBEF (Li et al., NeurIPS 2021) as a system: data, pretraining with momentum distillation, export and serving."""

__version__ = "0.1.0"
