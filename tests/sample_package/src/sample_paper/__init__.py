"""A package with one paper of its own."""
