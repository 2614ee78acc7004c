"""Cheaper variants of a bundle: quantized, fused, distilled or reduced."""
