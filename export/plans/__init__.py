"""Build TensorRT plans from ONNX files, store them, and find them again."""
