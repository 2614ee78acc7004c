"""Evaluation of models and bundles: retrieval, caption scores, answers, calibration, sound, grounding, entailment."""
