"""Run models on perturbed images and reduce their logits to predictions."""
