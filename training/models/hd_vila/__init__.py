"""HD-VILA (Xue et al., CVPR 2022): one high-resolution frame and its low-resolution neighbours."""

from training.models.hd_vila.config import HdVilaConfig, base, tiny
from training.models.hd_vila.model import EARLY_FUSION_PREFIX, HdVila

__all__ = ["EARLY_FUSION_PREFIX", "HdVila", "HdVilaConfig", "base", "tiny"]
