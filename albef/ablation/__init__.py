"""The ablation of the paper's table 1 on custom data: gain of each objective and of distillation."""
