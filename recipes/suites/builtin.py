"""Owns the suites that have names: the files of $ZEROQ_DATA, and published sets at the hub.

k per suite is R1's where its report names one ([R1]: 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for
LiveCodeBench); elsewhere it is 16, our choice. T 0.6, top-p 0.95 and 32,768 tokens are R1's for all. The instruction
for chat models is what DeepSeek recommends for R1 and its distilled models (model card of deepseek-ai/DeepSeek-R1).
"""

from __future__ import annotations

from recipes.suites import foreign
from recipes.suites.suite import Suite

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
MGSM_LANGUAGES = ("en", "zh", "de", "es", "fr", "ja", "ru", "bn", "sw", "te", "th")
_HUMANEVAL_X = ("cpp", "java", "js")
_MULTIPL_E = ("cs", "ts", "php", "sh")


def _mathematics() -> list[Suite]:
    mgsm = {"source": "mgsm.jsonl", "language_from": "meta.lang", "instruction": BOXED}
    return [
        Suite("aime2024", "aime2024.jsonl", instruction=BOXED, k=64),  # [R1]
        Suite(
            "math500",
            "math500_dev.jsonl",
            instruction=BOXED,
            k=16,  # [R1]
            note="every second problem of MATH-500 (250 of 500); math500_full has all of them, from the hub",
        ),
        Suite(
            "math500_full",
            "HuggingFaceH4/MATH-500",
            local=True,
            convert=foreign.math500,
            instruction=BOXED,
            k=16,  # [R1]
        ),
        Suite("math_rest", "math_test_rest.jsonl.gz", instruction=BOXED, note="MATH's test set without MATH-500"),
        Suite("gsm8k", "gsm8k_test.jsonl", instruction=BOXED),
        Suite("mgsm", **mgsm, note="its 250 problems, in 11 languages, are the first 250 of gsm8k"),  # type: ignore[arg-type]
        *(Suite(f"mgsm_{lang}", **mgsm, only={"meta.lang": lang}) for lang in MGSM_LANGUAGES),  # type: ignore[arg-type]
    ]


def _programs() -> list[Suite]:
    return [
        Suite("humaneval", "humaneval_python.jsonl"),
        *(Suite(f"humaneval_x_{lang}", f"humaneval_x_{lang}.jsonl") for lang in _HUMANEVAL_X),
        *(Suite(f"multipl_e_{lang}", f"multipl_e_humaneval_{lang}.evalonly.jsonl") for lang in _MULTIPL_E),
        Suite("mbpp", "mbpp.jsonl", only={"meta.split": "test"}, note="249 of the test split's 500"),
        Suite("mbpp_sanitized", "mbpp_sanitized.jsonl"),
        Suite("google_contests", "google_coding_competitions.jsonl.gz", note="Code Jam, Kick Start and others"),
    ]


def _hub() -> list[Suite]:
    """Looked at only when asked for; a file of the suite's name in $ZEROQ_DATA saves the way to the hub."""
    return [
        Suite(
            "gpqa_diamond",
            "Idavidrein/gpqa:gpqa_diamond",
            split="train",
            local=True,
            convert=foreign.gpqa,
            instruction=BOXED,
            k=64,  # [R1]
        ),
        Suite(
            "livecodebench",
            "livecodebench/code_generation_lite",
            local=True,
            convert=foreign.live_code_bench,
            k=8,  # [R1]
            note="the hub's loading script is not run: put its rows into livecodebench.jsonl",
        ),
        Suite(
            "codeforces",
            "open-r1/codeforces",
            local=True,
            convert=foreign.codeforces,
            k=16,  # [R1]
            note="without problems that have a checker of their own, are interactive or have no tests",
        ),
    ]


ALIASES = {"gpqa": "gpqa_diamond", "math": "math500", "aime": "aime2024", "lcb": "livecodebench"}


def builtin_suites() -> dict[str, Suite]:
    """Suites by name."""
    return {suite.name: suite for suite in [*_mathematics(), *_programs(), *_hub()]}
