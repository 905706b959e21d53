"""The evaluator room: leases of generated groups in, verdicts out.

    broker --lease(prompt, texts, spec)--> loop --> compose --> pool of killable workers --> graders/*
    broker <--verdicts (or the lease)------ loop <-- compose <--'

Wrong answers earn a verdict; a broken evaluator earns none: the lease goes back. No process of this room imports
torch unless a user's reward function does so, and then only inside a worker.
"""
