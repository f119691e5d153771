"""The results database: its schema, how it is opened, written, checked and copied."""
