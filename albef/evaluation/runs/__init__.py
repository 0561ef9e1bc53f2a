"""What the evaluation stage writes, task by task."""
