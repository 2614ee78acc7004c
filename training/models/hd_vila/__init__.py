"""HD-VILA (Xue et al., CVPR 2022): one high-resolution frame and its low-resolution neighbours.

Read in this order: ``config`` (the numbers), ``video`` (frames to tokens), ``model`` (all wired).
"""

from training.models.hd_vila.config import HdVilaConfig, base, tiny
from training.models.hd_vila.model import HdVila

__all__ = ["HdVila", "HdVilaConfig", "base", "tiny"]
