"""Evaluation of models and bundles: retrieval, caption scoring, answers, calibration and frame streams."""
