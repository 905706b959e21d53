"""Reward models as a service inside an evaluator: one worker process that batches what all desks ask.

    compose --submit(model, prompt, texts)--> client --JSON over a socket pair--> worker --padded batches--> model
    compose <--one Future per text----------- client <--scores, batch by batch--- worker <-----------------'

torch and transformers are imported in the worker process only (model.py). The worker dies with its evaluator; one that
died is replaced, and what it had been asked is asked once more. No score is ever made up: what cannot be scored fails.
"""
