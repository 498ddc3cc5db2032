"""Real tables: regression and classification."""
