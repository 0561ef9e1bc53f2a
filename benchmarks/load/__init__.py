"""Load benchmarks of served endpoints against the same work in process."""
