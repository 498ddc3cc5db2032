"""Estimates of the evidence, and bounds on it."""
