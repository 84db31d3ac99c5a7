"""Check-as-Context on small models and on BBQ: its models, its measures, how answers are scored."""
