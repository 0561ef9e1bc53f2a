"""Text assignment, the additional pretraining step for NLVR2."""
