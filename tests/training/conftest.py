import sys
from pathlib import Path

# For toy_training.py, which the scripts that are started as processes of their own share with the tests.
sys.path.insert(0, str(Path(__file__).parent))
