"""What assistants may do with a running service, over the Model Context Protocol: find, look, score, ask."""
