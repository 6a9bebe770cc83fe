"""Training data that is made."""
