"""Download weights, read them without executing code, map their keys to an architecture, and load them."""
