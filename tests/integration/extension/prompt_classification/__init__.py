"""Image classification with prompt templates, as a task of another package."""
