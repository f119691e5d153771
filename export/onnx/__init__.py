"""Make, import, convert and compare the ONNX files of a model."""
