"""Evaluation of NLVR2."""

from albef.tasks.classification_eval import run as run
