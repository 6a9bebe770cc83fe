"""Generation: how samples are drawn from trained models."""
