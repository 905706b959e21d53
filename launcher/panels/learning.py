"""Learning: reward, accuracy, length, and the figures of the policy update."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, bad_above
from launcher.panels.words import SPARSE, share

_REWARD = Row(
    "Reward",
    (
        Panel(
            "Reward",
            "Mean and standard deviation over the last step's rollouts.",
            (
                Target("max(zeroq_learner_reward_mean)", "mean", row="reward"),
                Target("max(zeroq_learner_reward_std)", "standard deviation", row="reward_std"),
            ),
            "number",
            low=None,
        ),
        Panel(
            "Reward by component",
            "Mean of each component of reward.components, before its weight.",
            (Target("max by (reward) (zeroq_learner_reward_component_mean)", "{{reward}}", row="rewards/*/mean"),),
            "number",
            low=None,
        ),
        Panel(
            "Held-out accuracy",
            "Latest evaluations on problems that are not trained on.",
            (
                Target("max(zeroq_learner_eval_pass_at_1_ratio)", "pass@1", row="eval/pass_at_1"),
                Target("max(zeroq_learner_eval_greedy_ratio)", "greedy", row="eval/greedy"),
            ),
            "ratio",
            high=1.0,
        ),
        Panel(
            "Verdicts of trained rollouts",
            "Share by outcome, over the steps of the last ten minutes.",
            (Target(share("zeroq_learner_outcomes_total", "outcome", SPARSE), "{{outcome}}"),),
            "ratio",
            "stacked",
            high=1.0,
        ),
        Panel(
            "Groups without signal",
            "Share of groups whose rewards are all equal. They carry no gradient.",
            (Target("max(zeroq_learner_zero_variance_groups_ratio)", "share", row="frac_reward_zero_std"),),
            "ratio",
            high=1.0,
        ),
        Panel(
            "Response length",
            "Mean completion length, tokens.",
            (Target("max(zeroq_learner_completion_length_tokens)", "mean", row="completions/mean_length"),),
        ),
    ),
)

_POLICY = Row(
    "Policy",
    (
        Panel(
            "Cut off at the limit",
            "Share of completions that reached rollout.max_tokens. Rising with the reward falling: raise the limit.",
            (Target("max(zeroq_learner_truncated_completions_ratio)", "share", row="completions/clipped_ratio"),),
            "ratio",
            high=1.0,
        ),
        Panel(
            "Entropy",
            "Mean over trained tokens, nats. Falling to zero: the policy has collapsed and explores no more.",
            (Target("max(zeroq_learner_entropy_nats)", "entropy", row="entropy"),),
            "number",
        ),
        Panel(
            "KL against the reference",
            "Mean k3 estimate, nats. Empty without a reference policy (learner.kl_coef is zero).",
            (Target("max(zeroq_learner_kl_nats)", "kl", row="kl"),),
            "number",
        ),
        Panel(
            "Clipped tokens",
            "Share of trained tokens whose ratio was clipped, by side.",
            (
                Target('max(zeroq_learner_clip_ratio{side="low"})', "low", row="clip_ratio/low_mean"),
                Target('max(zeroq_learner_clip_ratio{side="high"})', "high", row="clip_ratio/high_mean"),
            ),
            "ratio",
        ),
        Panel(
            "Gradient norm",
            "Before clipping.",
            (Target("max(zeroq_learner_gradient_norm)", "norm", row="grad_norm"),),
            "number",
        ),
        Panel(
            "Loss",
            "Of the last step. It does not measure progress: advantages are relative to the group.",
            (Target("max(zeroq_learner_loss)", "loss", row="loss"),),
            "number",
            low=None,
        ),
        Panel(
            "Learning rate",
            "Of the last step.",
            (Target("max(zeroq_learner_learning_rate)", "rate", row="learning_rate"),),
            "number",
        ),
    ),
)

_MISMATCH = Row(
    "Sampler against learner",
    (
        Panel(
            "KL of sampler and learner",
            "Mean k3 estimate at trained tokens, nats: how far training and inference differ, staleness included. It "
            "shows wrong weights, another precision, or log-probabilities that are not those sampled from.",
            (Target("max(zeroq_learner_sampler_kl_nats)", "kl"),),
            "number",
            thresholds=bad_above(0.01, 0.1),
        ),
        Panel(
            "Log-probability difference",
            "Absolute difference, nats.",
            (
                Target(
                    'max(zeroq_learner_sampler_logp_difference_nats{stat="mean"})',
                    "mean",
                    row="sampling/sampling_logp_difference/mean",
                ),
                Target(
                    'max(zeroq_learner_sampler_logp_difference_nats{stat="max"})',
                    "max",
                    row="sampling/sampling_logp_difference/max",
                ),
            ),
            "number",
        ),
        Panel(
            "Importance weight",
            "Mean of learner's over sampler's probability. One when they agree.",
            (
                Target(
                    "max(zeroq_learner_importance_ratio_mean)",
                    "mean",
                    row="sampling/importance_sampling_ratio/mean",
                ),
            ),
            "number",
            low=None,
        ),
    ),
)

LEARNING = Board(
    "learning",
    "Learning",
    "Reward, accuracy and length; entropy, KL and clipping of the policy; how far sampler and learner differ.",
    (_REWARD, _POLICY, _MISMATCH),
)
