"""Other people's engines and harnesses, each thinly over the same methods, models and runtime."""
