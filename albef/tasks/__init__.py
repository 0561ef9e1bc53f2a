"""Tasks: one package each, with what several of them share beside them."""
