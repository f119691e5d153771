"""Runs in tasks: what a worker computes, the shards that it leaves, and who hands tasks out."""
