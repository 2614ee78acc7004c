"""Objectives: contrastive, matching, masked words and masked visual tokens, class-name distillation."""
