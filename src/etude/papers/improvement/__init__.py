"""Models that learn from their own output."""
