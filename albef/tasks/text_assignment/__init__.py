"""Text assignment: the extra pretraining step for NLVR2."""
