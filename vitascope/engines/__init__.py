"""Graph engines: ONNX Runtime in this process, and the factory that picks an engine."""
