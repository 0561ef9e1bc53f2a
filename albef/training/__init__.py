"""Training: one loop for all tasks, with step-exact resume."""
