"""The learner: GRPO mathematics, packing, FSDP2, optimizer, checkpoints, task feed, SFT and weight publishing.

loop.py         take -> pack -> step -> publish -> release
feed.py         tasks in       intake.py      groups out (gate 3)      evaluation.py   held-out problems
batch.py        groups to a training batch     packing.py    a batch to micro-batches
trainer.py      one optimizer step             sft.py         supervised steps, the cold start
supervised.py corpus.py supervised_log.py      the supervised job (`zeroq sft`), its data and its log
advantage.py loss.py head.py attention.py      mathematics
model.py optimizer.py ranks.py checkpoint.py   what they run on
step_log.py metrics.py flops.py                what a step reports
weights/        publishing to actors
"""
