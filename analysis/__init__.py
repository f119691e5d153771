"""Answers: the results database and the metrics computed from it."""
