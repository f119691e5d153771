"""Create classification heads for feature extractors: trained on labeled images, or computed from class embeddings."""
