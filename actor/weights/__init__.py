"""Actor's half of the weight path: join, pull, take part in epochs, load into vLLM between two tokens."""

from actor.weights.receiver import WeightReceiver

__all__ = ["WeightReceiver"]
