"""Feedback becomes a better model: dataset, fine-tune, evaluation, registry, serving."""
