"""Evaluation of autoregressive models that backtrack against GIDD+, and recovery from wrong tokens at the end of a prompt."""
