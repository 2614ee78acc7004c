"""Video-language models: the three architectures, and the modules that they share."""
