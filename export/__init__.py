"""Checkpoints: where they are, how their weights read, and how they become ONNX models."""
