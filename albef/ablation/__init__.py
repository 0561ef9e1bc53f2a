"""Ablation of objectives and distillation, as in table 1 of the paper."""
