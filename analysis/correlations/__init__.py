"""Correlations between bias metrics and generalization, over models."""
