"""Video-language models: parts that every system shares here, each system in a folder of its own."""
