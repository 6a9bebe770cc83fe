"""Measuring what training does."""
