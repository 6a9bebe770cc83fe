"""Recursive programs around a language model."""
