"""The sandbox's entry: jobs in, results out, on as many programs at once as it has slots.

    submit(job) --slot thread--> jail --> cells --> CodeResult      grade(job) waits for it

A failure of the sandbox itself is tried once more on a new zygote; what then remains is `infra_error`, which is never a
reward.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from evaluator import metrics
from evaluator.sandbox import InfraError
from evaluator.sandbox.capabilities import Capabilities, require
from evaluator.sandbox.functions import Judges, run_functions
from evaluator.sandbox.jail import Jail, JailOptions
from evaluator.sandbox.job import PYTHON_ONLY, AssertsTests, CodeJob, CodeResult, SuffixTests
from evaluator.sandbox.programs import Toolbox, compile_program, run_program
from evaluator.sandbox.scores import TestScore, summarise
from evaluator.sandbox.tools import ToolMissing

log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class CodeGrader:
    """Grades programs. `tier`: the floor; below it the constructor raises InfraError with the missing layers."""

    def __init__(self, workers: int = 1, *, tier: int = 2, use_cgroups: bool = True) -> None:
        self.tier = tier
        self._toolbox = Toolbox()
        try:
            self.jail = Jail(JailOptions(tier=tier, use_cgroups=use_cgroups, binds=self._toolbox.binds))
        except BaseException:
            self._toolbox.close()
            raise
        try:
            self.capabilities: Capabilities = require(self.jail, tier)
        except BaseException:
            self._toolbox.close()
            self.jail.close()
            raise
        metrics.SANDBOX_TIER.set(self.capabilities.tier)
        self._toolbox.attach(self.jail)
        self._judges = Judges(self.jail)
        self.jail.verify = lambda: require(self.jail, tier)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> CodeGrader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: CodeJob, progress: Callable[[], None] = _nothing) -> Future[CodeResult]:
        """Grade when a slot is free; `progress` is called, in another thread, after each test."""
        return self._threads.submit(self.grade_now, job, progress)

    def grade(self, job: CodeJob) -> CodeResult:
        """Grade and wait."""
        return self.submit(job).result()

    def grade_now(self, job: CodeJob, progress: Callable[[], None] = _nothing) -> CodeResult:
        """Grade in this thread."""
        begin = time.perf_counter()
        result = None
        for last_try in (False, True):
            try:
                scores, cpu_s = self._run(job, progress)
            except InfraError as error:
                if last_try or isinstance(error, ToolMissing):
                    result = _infra(str(error), time.perf_counter() - begin)
                    break
                log.warning("sandbox: %s; tried once more", error)
            except Exception as error:
                # Provoked by one program, it must not end the evaluator, nor be tried for ever.
                log.exception("sandbox: a program upset the grader")
                scores = [TestScore("error", f"the grader could not judge it: {type(error).__name__}: {error}")]
                result = summarise(scores, job.reward, time.perf_counter() - begin, 0.0)
                break
            else:
                result = summarise(scores, job.reward, time.perf_counter() - begin, cpu_s)
                break
        assert result is not None
        metrics.PROGRAMS.labels(job.language, result.verdict).inc()
        metrics.PROGRAM_CPU_SECONDS.labels(job.language).inc(result.cpu_s)
        metrics.PROGRAM_SECONDS.labels(job.language).observe(result.wall_s)
        return result

    def compile_only(self, job: CodeJob) -> float:
        """CPU seconds of the job's compilation (0 from the cache), for benchmarks; InfraError if it fails."""
        return compile_program(self._toolbox, job)

    def close(self) -> None:
        """End every process. What is being graded ends as infra_error; what waits is cancelled."""
        metrics.SANDBOX_TIER.set(0)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.jail.close()
        self._threads.shutdown(wait=True)
        self._judges.close()
        self._toolbox.close()

    def _run(self, job: CodeJob, progress: Callable[[], None]) -> tuple[list[TestScore], float]:
        if job.language == "python" and isinstance(job.tests, SuffixTests):
            # A judge's cell keeps the tests out of the program's process, which no suffix could.
            job = job.model_copy(update={"tests": AssertsTests(kind="asserts", code=[job.tests.code])})
        if job.tests.kind in PYTHON_ONLY:
            return run_functions(self.jail, self._judges, job, progress)
        if self.tier < 2 and job.language != "python":
            raise InfraError(f"{job.language} needs tier 2; this sandbox is tier 1, for Python alone")
        return run_program(self.jail, self._toolbox, job, progress)


def _infra(why: str, wall_s: float) -> CodeResult:
    return CodeResult(
        verdict="infra_error", passed=0, total=0, per_test=[], reward=0.0, detail=why[:300], wall_s=wall_s, cpu_s=0.0
    )
