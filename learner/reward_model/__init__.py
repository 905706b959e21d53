"""Training of reward models: helpfulness from pairs (Bradley-Terry), harmlessness from labelled responses.

    preferences --records--> rows --store--> token ids --trainer--> sequence classifier --measure--> reward_model.json

R1 trained both on its base model with batches of 256 at 6e-6 for one epoch (arXiv 2501.12948, Nature version). The
result is a Hugging Face sequence classifier that evaluators serve (evaluator/scoring/); what is read of a response and
how it is tokenised is common/reward_model.py, for both.
"""
