"""The command line: commands, options, tables and messages."""
