"""Models that grow, shrink and merge."""
