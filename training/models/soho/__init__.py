"""SOHO (Huang et al., CVPR 2021): a trainable CNN whose features are quantised by a visual dictionary.

Read in this order: ``config`` (the numbers), ``video`` (frames to tokens), ``dictionary``, ``model`` (all wired).
"""

from training.models.soho.config import SohoConfig, base, tiny
from training.models.soho.model import Soho

__all__ = ["Soho", "SohoConfig", "base", "tiny"]
