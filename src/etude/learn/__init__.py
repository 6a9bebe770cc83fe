"""Objectives and the evaluators that go with them."""
