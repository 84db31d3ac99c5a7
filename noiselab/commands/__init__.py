"""The command line: `noiselab train|generate|correct|evaluate|inspect`."""
