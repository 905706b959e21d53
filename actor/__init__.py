"""Actors: sample groups of completions with vLLM while the learner keeps replacing the weights."""
