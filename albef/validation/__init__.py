"""The gate between preparation and training. Great Expectations lives here and nowhere else."""
