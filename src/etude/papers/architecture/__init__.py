"""Recursion and recurrence inside the model."""
