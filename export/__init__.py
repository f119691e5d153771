"""Export models: convert weights to ONNX, and ONNX models to TensorRT plans."""
