"""What runs an experiment: its contract, options, progress, results on disk and the report."""
