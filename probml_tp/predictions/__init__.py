"""What a posterior predicts: draws, moments, links to probabilities, and the predictive."""
