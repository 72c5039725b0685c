"""Tensor mathematics that knows no model and no method."""
