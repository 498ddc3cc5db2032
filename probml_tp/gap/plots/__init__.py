"""Figures of the gap between posteriors."""
