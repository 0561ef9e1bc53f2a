"""Report section of NLVR2."""

from albef.tasks.classification_report import section as section
