"""How many evaluators and actors there should be, and making it so.

    broker's status ── observation ── policy (pure) ── damper (hysteresis, rate limits) ── decision
                                                                                            │
                     ReplicaPool.scale  <── departures (drained first) <────────────────────┘

The policy sees numbers only, so the same one runs in `zeroq run` (local.py, real processes) and on Kubernetes
(kubernetes.py, deployments/scale), where several autoscalers agree by a Lease which of them acts (election.py).
"""
