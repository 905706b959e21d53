"""Learner's half of the weight path: gather, stage, agree on an epoch, broadcast, commit."""

from learner.weights.gather import gather_full_tensors
from learner.weights.publisher import PublishReport, WeightPublisher

__all__ = ["PublishReport", "WeightPublisher", "gather_full_tensors"]
