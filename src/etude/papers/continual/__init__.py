"""Going on learning without forgetting."""
