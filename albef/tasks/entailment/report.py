"""Report section of visual entailment."""

from albef.tasks.classification_report import section as section
