"""Images of digits: uncertainty, failures, foreign images, calibration, shift."""
