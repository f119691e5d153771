"""An exported ONNX file as a torch module, for gradients and for a second opinion."""
