"""The command line: studies in, results and answers out."""
