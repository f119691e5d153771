"""Running: one perturbed batch through every session, logits reduced to predictions."""
