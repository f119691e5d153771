"""The engines: one file an inference library, each with sessions of the same protocol."""
