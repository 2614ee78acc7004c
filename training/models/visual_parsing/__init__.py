"""Visual Parsing (Xue et al., NeurIPS 2021): self-attention from the pixels on, no convolutional backbone.

Read in this order: ``config`` (the numbers), ``video`` (frames to tokens), ``model`` (all wired).
"""

from training.models.visual_parsing.config import VisualParsingConfig, base, tiny
from training.models.visual_parsing.model import VisualParsing

__all__ = ["VisualParsing", "VisualParsingConfig", "base", "tiny"]
