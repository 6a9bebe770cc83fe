"""Loops: rounds of making data, judging, choosing and learning, on disk between rounds."""
