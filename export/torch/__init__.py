"""Run an exported ONNX file as a torch module, to compute gradients and to check the export."""
