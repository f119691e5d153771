"""TensorRT plans of ONNX files: how they are built, and how they are found again."""
