"""Learning from mistakes on iGSM problems: training rows, models, solving, measures."""
