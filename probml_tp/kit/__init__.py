"""What all studies share: names in prose, comparisons, checks of posteriors."""
