"""Heads that make classifiers of networks of features: trained on labelled images, or given as class embeddings."""
