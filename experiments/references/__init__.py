"""Against known posteriors: moments, the gap, simulation-based calibration."""
