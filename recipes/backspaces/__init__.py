"""Autoregressive models that backtrack against GIDD+: measures, and what wrong tokens at the end of a prompt cost."""
