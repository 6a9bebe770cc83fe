"""What is seen when."""
