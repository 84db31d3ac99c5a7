"""noiselab."""
