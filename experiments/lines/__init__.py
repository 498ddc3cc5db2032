"""Regression on a line, and in closed form: linear, nonlinear, calibration."""
