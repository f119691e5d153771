"""Models: weights become ONNX files, and ONNX files become TensorRT plans."""
