"""Load on the served endpoints, and the same work in this process beside it."""
