"""Accuracy, speed and cost: every figure that the documentation quotes is printed from here."""
