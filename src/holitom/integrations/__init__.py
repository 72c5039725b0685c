"""Integrations of methods, models and runtime into serving engines and evaluation harnesses."""
