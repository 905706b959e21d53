"""zeroq on Kubernetes, seen from outside: `zeroq submit`, `zeroq status --k8s`, `zeroq logs`, and the autoscaler's API
calls.

`Cluster` (client.py) is the only module that talks to the API server; it speaks through the official client and knows
of plain dictionaries only. Everything that can go wrong there is one of the exceptions in errors.py.
"""
