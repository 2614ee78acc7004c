"""Export of public models: transformers, open_clip and checkpoints released by the authors of three papers."""
