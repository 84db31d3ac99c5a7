"""The demo's HTML report, and the experiment on a Markov chain that it reports."""
