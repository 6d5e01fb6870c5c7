"""Evaluation: what a model is worth, on data that it never learned from."""

from superbatch.evaluation.classification import ClassificationResult, evaluate_classification
from superbatch.evaluation.embeddings import labelled_batches
from superbatch.evaluation.linear_probe import LinearProbeResult, evaluate_linear_probe
from superbatch.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from superbatch.evaluation.zero_shot import (
    Prompts,
    ZeroShotResult,
    evaluate_zero_shot,
    read_prompts,
    zero_shot_head,
)


__all__ = [
    "ClassificationResult",
    "LinearProbeResult",
    "Prompts",
    "RetrievalResult",
    "ZeroShotResult",
    "evaluate_classification",
    "evaluate_linear_probe",
    "evaluate_retrieval",
    "evaluate_zero_shot",
    "labelled_batches",
    "read_prompts",
    "zero_shot_head",
]
