"""Owns the judge behind an OpenAI-compatible endpoint (a server of vLLM or SGLang, or a hosted model).

Time-outs, refused connections, 429 and 5xx are tried again with growing pauses (or those the server asks for); what
stays broken, and a refused key or an unknown model, ends the run with the endpoint's name and the row's. Answers that
came in before are given out first. A row that the server finds malformed (400, 413, 422: mostly too long) or answers
without text has a note in brackets as its reply, which no reader can use: it is counted and left out.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from pydantic import Field

from common.config import Section
from common.errors import RunFailure, UserError
from recipes.stages.ask import Question, Replies

if TYPE_CHECKING:
    from openai import OpenAI

_MAX_PAUSE_S = 60.0
_POLL_S = 0.2
_FIXABLE_ROW = (400, 413, 422)


class EndpointSettings(Section):
    """Which endpoint judges, and how it is asked."""

    base_url: str = Field(pattern=r"^https?://", description="Up to and with /v1.")
    model: str = Field(min_length=1, description="Name that the endpoint knows the model by.")
    api_key_env: str | None = Field(None, description="Environment variable with the key; null: none is needed.")
    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int | None = Field(2048, ge=1, description="Longest reply, reasoning included; null: not sent.")
    extra: dict[str, Any] = Field(default_factory=dict, description="Further fields of the request, as they are.")
    timeout_s: float = Field(120.0, gt=0, description="Of one attempt.")
    retries: int = Field(6, ge=0, description="Further attempts after time-outs, refused connections, 429 and 5xx.")
    pause_s: float = Field(
        1.0, ge=0, description="Before the first retry; doubled for each further one, up to a minute."
    )
    concurrency: int = Field(16, ge=1, le=1024, description="Requests in flight.")


class EndpointAsker:
    """An `Asker` over chat completions; the prompt is the user's only message."""

    def __init__(self, settings: EndpointSettings, *, stop: Callable[[], bool] = lambda: False) -> None:
        """`stop`: asked between answers; once true, no further request is made. UserError without key or client."""
        sampling = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, **settings.extra}
        self.model = f"{settings.model} {json.dumps(sampling, sort_keys=True)}"
        self.where = f"{settings.model} at {settings.base_url}"
        self._settings = settings
        self._asked_to_stop = stop
        self._key = _key(settings.api_key_env)

    def ask(self, questions: Sequence[Question]) -> Replies:
        """See `Asker`. At most `concurrency` requests are in flight; a failure lets those end and gives them out."""
        client = self._client()
        halt = threading.Event()
        pending: dict[Future[str], int] = {}
        failure: RunFailure | None = None
        upcoming = iter(enumerate(questions))
        num_answered, stopped = 0, False
        with client, ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="judge") as pool:
            try:
                while True:
                    if not halt.is_set() and self._asked_to_stop():
                        stopped = True
                        halt.set()
                    while not halt.is_set() and len(pending) < self._settings.concurrency:
                        if (following := next(upcoming, None)) is None:
                            break
                        number, question = following
                        pending[pool.submit(self._answer, client, question, halt)] = number
                    if not pending:
                        break
                    for future in wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
                        number = pending.pop(future)
                        try:
                            reply = future.result()
                        except RunFailure as error:
                            failure = failure or error
                            halt.set()
                            continue
                        num_answered += 1
                        yield number, reply
            finally:
                halt.set()  # whoever breaks off must not wait for pauses
        if failure is None and stopped:
            failure = self._stopped(num_answered, len(questions))
        if failure is not None:
            raise failure

    def _answer(self, client: OpenAI, question: Question, halt: threading.Event) -> str:
        """The reply to one question, after as many attempts as it takes and is allowed."""
        import openai

        s = self._settings
        for attempt in range(s.retries + 1):
            try:
                completion: Any = client.chat.completions.create(
                    model=s.model,
                    messages=[{"role": "user", "content": question.prompt}],
                    temperature=s.temperature,
                    extra_body=({"max_tokens": s.max_tokens} if s.max_tokens is not None else {}) | s.extra,
                )
                return _text(completion)
            except openai.APITimeoutError:
                problem, asked = f"no answer within {s.timeout_s:g} s", None
            except openai.APIConnectionError as error:
                problem, asked = f"no connection ({_one_line(error.__cause__ or error)})", None
            except openai.APIResponseValidationError as error:
                return f"[no chat completion: {_one_line(error)}]"
            except openai.APIStatusError as error:
                problem = f"status {error.status_code}: {_one_line(error)}"
                if error.status_code in _FIXABLE_ROW:
                    return f"[{problem}]"
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise self._failure(question, problem, "check the key, the model's name and the address") from None
                asked = _retry_after(error.response.headers.get("retry-after"))
            except (ValueError, RecursionError) as error:  # 200 with a body that is no JSON
                return f"[no chat completion: {_one_line(error)}]"
            if attempt < s.retries and halt.wait(_pause(s.pause_s, attempt, asked)):
                break
        tried = f"{attempt + 1} attempts"
        raise self._failure(
            question, f"{problem}, {tried}", "see that the endpoint is up, or allow more time or retries"
        )

    def _failure(self, question: Question, problem: str, remedy: str) -> RunFailure:
        return RunFailure(
            f"judge {self.where}: row {question.row!r}: {problem}; {remedy}. "
            "Answers so far are kept: run it again to go on"
        )

    def _stopped(self, num_answered: int, num_asked: int) -> RunFailure:
        return RunFailure(
            f"judge {self.where}: stopped after {num_answered} of {num_asked} new answers; run it again to go on"
        )

    def _client(self) -> OpenAI:
        try:
            import openai
        except ImportError:
            raise UserError("judge: an endpoint needs the package openai; pip install openai") from None
        s = self._settings
        return openai.OpenAI(base_url=s.base_url, api_key=self._key, timeout=s.timeout_s, max_retries=0)


def _key(name: str | None) -> str:
    if name is None:
        return "none"
    if not (key := os.environ.get(name)):
        raise UserError(f"judge: the environment variable {name} (judge.api_key_env) is not set; export the key in it")
    return key


def _text(completion: Any) -> str:
    """The text of a chat completion; if it has none, or is none, a note in brackets, which no reader takes for one."""
    try:
        content = completion.choices[0].message.content
    except (AttributeError, LookupError, TypeError):
        return "[no chat completion]"
    return content if isinstance(content, str) else "[a chat completion without text]"


def _pause(first_s: float, attempt: int, asked_s: float | None) -> float:
    """Seconds before the next attempt: what the server asked for, else doubling with up to a quarter of jitter."""
    if asked_s is not None:
        return min(asked_s, _MAX_PAUSE_S)
    doubled = min(first_s * 2.0**attempt, _MAX_PAUSE_S)
    return doubled * random.uniform(1.0, 1.25)


def _retry_after(header: str | None) -> float | None:
    """The header's seconds; None for dates and nonsense."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
