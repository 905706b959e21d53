"""Programs that are started for each test, whatever their language: compiled if need be, then stdio or suffix tests.

Suffix tests sit in the program's own process, so the proof that they came to their end is a nonce: the language's
driver reads it before the program's code runs, and writes it after the last test. An exit code alone is never a pass.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable

from evaluator.sandbox import InfraError, folders, tools
from evaluator.sandbox.compile import NEEDS_PROC, STACK_MB, WORK, Compiler
from evaluator.sandbox.drivers import Program, RefusedProgram
from evaluator.sandbox.jail import Jail
from evaluator.sandbox.job import CodeJob, LanguageName, StdioTests, SuffixTests
from evaluator.sandbox.languages import LANGUAGES, Language, classify
from evaluator.sandbox.scores import TestScore
from evaluator.sandbox.stdio import Launch, ReusedCell, how_it_ended, limit_score, python_launch, run_stdio
from evaluator.sandbox.toolchain import ToolchainError, prepare

TOOLCHAIN = "/toolchain"  # where the folder below is seen in the jail
_PREFIX = "zeroq-toolchain"
_DEEP_STACK_MB = 256  # recursion in C++; elsewhere the depth is the run-time system's own affair


class Toolbox:
    """What the languages need beside the jail: headers compiled ahead, warm compilers. Built when first asked for."""

    def __init__(self) -> None:
        self.folder = folders.make(_PREFIX)
        self.folder.chmod(0o755)  # the jail's user is not ours
        self.binds = {TOOLCHAIN: str(self.folder)}
        self._compiler: Compiler | None = None
        self._locks = {name: threading.Lock() for name in LANGUAGES}
        self._ready: set[LanguageName] = set()

    def attach(self, jail: Jail) -> None:
        """The jail to compile in."""
        self._compiler = Compiler(jail, TOOLCHAIN)

    def compiler(self, language: Language) -> Compiler:
        """The compiler, with what `language` needs built. InfraError if it cannot be."""
        assert self._compiler is not None
        with self._locks[language.name]:
            if language.name not in self._ready:
                try:
                    prepare(self.folder, {language.name})
                except (ToolchainError, OSError) as error:
                    raise InfraError(f"{language.name}: {error}") from None
                self._ready.add(language.name)
        return self._compiler

    def close(self) -> None:
        """End the warm compilers, remove what was built."""
        if self._compiler is not None:
            self._compiler.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def run_program(
    jail: Jail, toolbox: Toolbox, job: CodeJob, progress: Callable[[], None]
) -> tuple[list[TestScore], float]:
    """Score of every test, and CPU seconds of all cells; `progress` after each step. InfraError: a tool is not here."""
    tests = job.tests
    assert isinstance(tests, StdioTests | SuffixTests)
    if job.language == "python" and isinstance(tests, StdioTests):
        return run_stdio(jail, job, python_launch(job.source), progress)
    language = LANGUAGES[job.language]
    if missing := tools.missing_tools(language):
        raise tools.ToolMissing(
            f"toolchain of {language.name} is absent: {', '.join(missing)} (make evaluator-languages)"
        )
    num = len(tests.cases) if isinstance(tests, StdioTests) else 1
    try:
        program = language.compose(job.source, tests if isinstance(tests, SuffixTests) else None)
    except RefusedProgram as error:
        return [TestScore("error", f"refused: {error}")] * num, 0.0
    launch, cpu_s, why = _build(toolbox, language, program, job)
    progress()
    if launch is None:
        return [TestScore("error", f"did not compile: {why}")] * num, cpu_s
    if isinstance(tests, StdioTests):
        scores, used_s = run_stdio(jail, job, launch, progress)
        return scores, cpu_s + used_s
    score, used_s = _run_suffix(jail, job, launch)
    return [score], cpu_s + used_s


def compile_program(toolbox: Toolbox, job: CodeJob) -> float:
    """CPU seconds of a job's compilation; InfraError if it fails."""
    language = LANGUAGES[job.language]
    program = language.compose(job.source, job.tests if isinstance(job.tests, SuffixTests) else None)
    launch, cpu_s, why = _build(toolbox, language, program, job)
    if launch is None:
        raise InfraError(why)
    return cpu_s


def _build(toolbox: Toolbox, language: Language, program: Program, job: CodeJob) -> tuple[Launch | None, float, str]:
    """How to start the program, CPU seconds of its compilation; or None and the compiler's words."""
    artefacts: dict[str, bytes] = {}
    cpu_s = 0.0
    argv = language.compile_argv(program, TOOLCHAIN)
    if argv is not None:
        compiler = toolbox.compiler(language)
        compiled = compiler.compile(language, program, tools.resolve(argv), job.limits.compile_s)
        cpu_s = compiled.cpu_s
        if compiled.artefacts is None:
            return None, cpu_s, compiled.diagnostics[:300]
        artefacts = dict(compiled.artefacts)
    memory_mb = job.limits.memory_mb
    header = {
        "argv": tools.resolve(language.run_argv(program, memory_mb)),
        "environment": language.environment(WORK, TOOLCHAIN, memory_mb),
        "stack_mb": _DEEP_STACK_MB if language.name == "cpp" else STACK_MB,
    }
    data = {name: text.encode("utf-8", "surrogatepass") for name, text in program.data.items()}
    return Launch(header, files={**artefacts, **data}, proc=language.name in NEEDS_PROC), cpu_s, ""


def _run_suffix(jail: Jail, job: CodeJob, launch: Launch) -> tuple[TestScore, float]:
    nonce = secrets.token_hex(16)
    with ReusedCell(jail, job.limits, launch) as cells:
        outcome = cells.run(f"{nonce}\n".encode(), job.limits.output_kb, once=True)
    over = limit_score(outcome, job.limits)
    if over is not None:
        return over, cells.cpu_s
    end = bytes(outcome.stdout.tail or outcome.stdout.head)
    if outcome.exit_code == 0 and end.rstrip().rpartition(b"\n")[2] == nonce.encode():
        return TestScore("pass"), cells.cpu_s
    if outcome.exit_code == 0:
        return TestScore("error", "it ended before its tests did"), cells.cpu_s
    code = outcome.exit_code
    signal = -code if code is not None and code < 0 else None
    return TestScore(
        classify(None if signal else code, signal, outcome.stderr.text()), how_it_ended(outcome)
    ), cells.cpu_s
