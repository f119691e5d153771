"""Families of metrics, one file each."""
