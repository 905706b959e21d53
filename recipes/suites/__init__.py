"""Evaluation: which problems (registry, lm_eval), which figures (metrics, rating), and how they are shown (results)."""
