"""Evaluation: what a model is worth, on data that it never learned from."""

from superbatch.evaluation.classification import ClassificationResult, evaluate_classification


__all__ = ["ClassificationResult", "evaluate_classification"]
