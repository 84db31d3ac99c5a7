"""`python -m noiselab` is the command `noiselab`."""

from .commands.main import main

if __name__ == "__main__":
    main()
