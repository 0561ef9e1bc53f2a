"""Visual entailment (SNLI-VE)."""
