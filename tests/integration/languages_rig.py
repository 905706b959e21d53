"""Compiles and runs a composed program in a temporary folder, outside the sandbox, as the sandbox does inside."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.sandbox.job import LanguageName, SuffixTests
from evaluator.sandbox.languages import LANGUAGES, PATH, Language, Program, RefusedProgram, classify

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """`verdict`: pass, fail, error, compile (did not compile), refused."""

    verdict: str
    stdout: str
    stderr: str


def missing(name: LanguageName) -> list[str]:
    """Tools of a language that are not installed."""
    tools = LANGUAGES[name].tools
    return [tool for tool in tools if not (Path(tool).exists() if tool[0] == "/" else shutil.which(tool, path=PATH))]


def compile_cold(language: Language, program: Program, folder: Path, toolchain: Path) -> str | None:
    """What the compiler said if it failed."""
    argv = language.compile_argv(program, str(toolchain))
    if argv is None:
        return None
    env = language.environment(str(folder), str(toolchain), 1024)
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.stderr + done.stdout if done.returncode else None


def run_suffix(
    name: LanguageName,
    source: str,
    tests: SuffixTests,
    folder: Path,
    toolchain: Path,
    server: Server | None = None,
    memory_mb: int = 1024,
) -> Outcome:
    """The verdict that the sandbox would come to."""
    language = LANGUAGES[name]
    try:
        program = language.compose(source, tests)
    except RefusedProgram as error:
        return Outcome("refused", "", str(error))
    write(folder, program)
    if server is not None:
        answer = server.ask(program.sources)
        if not answer["ok"]:
            return Outcome("compile", "", str(answer["diagnostics"]))
        for file, data in answer["files"].items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(base64.b64decode(data))
    else:
        failed = compile_cold(language, program, folder, toolchain)
        if failed is not None:
            return Outcome("compile", "", failed)
    for source_file in program.sources:
        (folder / source_file).unlink()
    nonce = secrets.token_hex(16)
    done = subprocess.run(
        language.run_argv(program, memory_mb),
        cwd=folder,
        env=language.environment(str(folder), str(toolchain), memory_mb),
        input=f"{nonce}\n",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
    )
    passed = done.stdout.rstrip("\n").rpartition("\n")[2] == nonce
    signal = -done.returncode if done.returncode < 0 else None
    verdict = "pass" if passed else classify(None if signal else done.returncode, signal, done.stderr)
    return Outcome(verdict, done.stdout.replace(nonce, "<nonce>"), done.stderr)


def write(folder: Path, program: Program) -> None:
    """The files of a program."""
    for file, text in {**program.sources, **program.data}.items():
        (folder / file).write_bytes(text.encode("utf-8", "surrogatepass"))


class Server:
    """A warm compiler."""

    def __init__(self, name: LanguageName, toolchain: Path) -> None:
        argv = [word.replace("{toolchain}", str(toolchain)) for word in LANGUAGES[name].server or ()]
        env = LANGUAGES[name].environment("/", str(toolchain), 1024)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=env)

    def ask(self, files: dict[str, str]) -> dict[str, Any]:
        """One program."""
        return self.ask_raw(json.dumps({"files": files}).encode())

    def ask_raw(self, frame: bytes) -> dict[str, Any]:
        """One frame, of any bytes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(struct.pack(">I", len(frame)) + frame)
        self.process.stdin.flush()
        (length,) = struct.unpack(">I", self.process.stdout.read(4))
        answer: dict[str, Any] = json.loads(self.process.stdout.read(length))
        return answer

    def close(self) -> None:
        """Ends with its standard input."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@contextlib.contextmanager
def warm(name: LanguageName, toolchain: Path) -> Iterator[Server]:
    """A server for the block."""
    server = Server(name, toolchain)
    try:
        yield server
    finally:
        server.close()
