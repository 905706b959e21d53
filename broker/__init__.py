"""The broker: queues, leases, credit and staleness gates; a state machine inside a thin ZeroMQ shell.

server.py      sockets in, sockets out: decode -> state.handle -> send
state.py       what each request does: events and time in, replies out (no socket, clock, disk, randomness)
ledger.py      every admitted task, in exactly one place; credit; dedup; dead letters
leases.py      rights to work, with deadlines and fencing tokens
staleness.py   which groups are too old, and how `pace` holds groups back
validate.py    bounds on everything that is received
invariants.py  what must hold after every event (run by the tests)
"""
