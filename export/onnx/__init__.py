"""The ONNX files of a model: made of a network or taken as they are, in each precision, and compared."""
