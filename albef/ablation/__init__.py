"""The paper's ablation (table 1) on own data: which objective and which distillation is worth what."""
