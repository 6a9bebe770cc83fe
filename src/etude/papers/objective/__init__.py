"""What is predicted, and how the step is taken."""
