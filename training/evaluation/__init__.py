"""Measuring a model or a bundle: retrieval, caption scoring, answers, calibration, what each stream contributes."""
