"""What adapt.py and adaptation_study.py share."""
