"""Training: data, steps, runs."""
