"""Evaluation of visual entailment."""

from albef.tasks.classification_eval import run as run
