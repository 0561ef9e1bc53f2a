"""HTML report of a pipeline run: metrics, curves and example images."""
