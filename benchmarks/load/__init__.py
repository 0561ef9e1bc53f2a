"""Load on the served endpoints, compared with the same work in this process."""
