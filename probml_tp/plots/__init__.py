"""Figures: functions that take arrays and axes, and return the axes."""
