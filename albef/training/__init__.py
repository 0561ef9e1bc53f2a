"""Training: one loop for every task, with step-exact resume."""
