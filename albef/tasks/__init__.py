"""Tasks, one subpackage each, and the code that several of them share."""
