"""From a group's texts to its verdicts: every reward component of every rollout, and their weighted sum.

    texts --read--> responses --calls--> runner (accuracy, language, functions), scorer (reward models) --> verdicts

- `Verdict.rewards` has every configured component by name, unweighted; None where it does not apply (`when`, a task
  without accuracy, a function that said so).
- `Verdict.reward` is the sum of weight * value over those that apply. A rollout to which none applies has no reward.
- `Verdict.outcome` follows accuracy, which is checked whether or not it is rewarded: pass (full marks), fail,
  timeout (the comparison or the program used up its limit: accuracy 0) or error (a program that crashed). A task of
  kind "none" passes when the weighted scores of its reward models are positive, that is better than their mean on
  held-out responses, whatever format and language add; without any (of weight), when its reward is positive.

Any fault that is not the answer's raises CallFailed: no verdict, the group goes back. RewardFault says that the reward,
as configured, is to blame, so that the same task would fail again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from common.config import RewardComponent, RewardSection
from common.errors import UserError
from common.messages import Verdict
from common.reward_model import read_reward_model
from evaluator import program
from evaluator.extract import Response, read
from evaluator.graders import CODE, NO_ACCURACY, AccuracyKind, accuracy_kind, accuracy_kinds, format_tags
from evaluator.graders.languages import SCRIPTS_OF_LANGUAGE
from evaluator.pool import Call, CallFailed, Inline, LimitExceeded, Result, Runner
from evaluator.sandbox.job import MAX_SOURCE_BYTES, CodeJob, CodeResult, first_error

FUNCTION_LIMIT_S = 45.0
LANGUAGE_LIMIT_S = 60.0
AUTO, DEFAULT_LANGUAGE = "auto", "en"
TICK_S = 0.25
_DETAIL_CHARACTERS = 256

Outcome = Literal["pass", "fail", "timeout", "error"]
_Accuracy = tuple[Outcome, float, str, float]  # outcome, score, detail, wall seconds


class RewardFault(CallFailed):
    """The configured reward is at fault: a user's function, or components of which none applies.

    `final`: another attempt cannot end otherwise (a contract was broken); a function that raised may have had bad luck.
    """

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


def check_reward(reward: RewardSection) -> None:
    """UserError naming the component whose settings no grader can serve (functions are checked by the workers)."""
    for index, component in enumerate(reward.components):
        key = f"reward.components[{index}]"
        if component.kind == "language" and component.language not in (AUTO, *SCRIPTS_OF_LANGUAGE):
            raise UserError(
                f"{key}.language = {component.language!r}: not a known language; "
                f"known: {AUTO} (the problem's own), {', '.join(sorted(SCRIPTS_OF_LANGUAGE))}"
            )
        if component.model is not None:
            try:
                read_reward_model(component.model)
            except UserError as error:
                raise UserError(f"{key}.model: {error}") from None


def grade_group(
    prompt: str,
    texts: Sequence[str],
    spec: Mapping[str, Any],
    reward: RewardSection,
    runner: Runner | None = None,
    *,
    functions: Runner | None = None,
    function_limit_s: float = FUNCTION_LIMIT_S,
    group: str = "",
    sandbox: Sandbox | None = None,
    scorer: Scorer | None = None,
    on_tick: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Verdicts of the rollouts `texts` of one task, in order.

    `runner` None grades in this thread, without limits. `functions` runs user functions (default: `runner`).
    `sandbox` grades programs (tasks of kind "code"), `scorer` asks reward models.
    `on_tick(num_done)` is called at least every TICK_S seconds, with a growing count; what it raises ends the grading.
    Raises CallFailed when the evaluator or the specification is at fault, RewardFault when the reward is.
    """
    sheet = _Sheet(prompt, texts, spec, reward)
    runner = runner or Inline()
    futures: list[Future[Any]] = []
    try:
        sheet.submit_scores(scorer, group, futures)  # first: batches of a reward model gather meanwhile
        sheet.submit(runner, functions or runner, function_limit_s, group, futures)
        if sheet.code is not None:
            sheet.submit_programs(sandbox, futures)
        _wait(futures, on_tick, sheet)
        return [sheet.verdict(index) for index in range(len(texts))]
    finally:
        for future in futures:
            future.cancel()


def _wait(futures: Sequence[Future[Any]], on_tick: Callable[[int], None] | None, sheet: _Sheet) -> None:
    """Until all are done; raises the first failure as soon as it is known (a used-up limit is none)."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            if error is not None and not isinstance(error, LimitExceeded):
                raise sheet.blame(future, error)
        if on_tick is not None:
            on_tick(len(futures) - len(pending) + sheet.num_steps)


class _Sheet:
    """One group being graded."""

    def __init__(self, prompt: str, texts: Sequence[str], spec: Mapping[str, Any], reward: RewardSection) -> None:
        self.prompt, self.texts, self.spec, self.reward = prompt, texts, spec, reward
        self.responses = [read(prompt, text) for text in texts]
        self.columns = _columns_of(spec)
        self.components = [component for component in reward.components if component.applies(self.columns)]
        self.code = _code_of(spec)
        self.kind = _kind_of(spec) if self.code is None else None
        self.refused: dict[int, str] = {}
        self.accuracy: dict[int, Future[Result]] = {}
        self.language: dict[tuple[str, int], Future[Result]] = {}
        self.function: dict[str, Future[Result]] = {}
        self.scores: dict[str, list[Future[float]]] = {}
        self.programs: dict[int, Future[CodeResult]] = {}
        self.num_steps = 0  # tests done, so that a program of many slow tests keeps its lease

    def submit(
        self, runner: Runner, functions: Runner, function_limit_s: float, group: str, futures: list[Future[Any]]
    ) -> None:
        """Start every call; `futures` collects them as they are made."""

        def start(on: Runner, call: Call) -> Future[Result]:
            futures.append(on.submit(call, group))
            return futures[-1]

        for component in self.components:
            if component.function is not None:
                self.function[component.name] = start(functions, self._function_call(component, function_limit_s))
        for index, response in enumerate(self.responses):
            answer = self._answer(index, response)
            if self.kind is not None and answer is not None:
                spec = {key: self.spec.get(key) for key in self.kind.spec_keys}
                call = Call(self.kind.target, {"answer": answer, "spec": spec}, self.reward.math_timeout_s)
                self.accuracy[index] = start(runner, call)
            for component in self.components:
                if component.kind == "language":
                    arguments = {"text": response.reasoning, "language": self._language(component)}
                    call = Call("evaluator.graders.language:grade", arguments, LANGUAGE_LIMIT_S)
                    self.language[component.name, index] = start(runner, call)

    def submit_scores(self, scorer: Scorer | None, group: str, futures: list[Future[Any]]) -> None:
        """Give every response to the reward models that apply."""
        for component in self.components:
            if component.model is None:
                continue
            if scorer is None:
                raise CallFailed(f"nothing here scores with reward models, and {component.name} asks for one")
            self.scores[component.name] = scorer.submit(component.model, self.prompt, self.texts, group)
            futures.extend(self.scores[component.name])

    def submit_programs(self, sandbox: Sandbox | None, futures: list[Future[Any]]) -> None:
        """Give every response's program to the sandbox."""
        assert self.code is not None
        if sandbox is None:
            raise CallFailed("this evaluator has no sandbox, and the task asks for a program (evaluator.code)")
        for index, response in enumerate(self.responses):
            fields = program.job(self.code, response)
            if fields is None:
                self.refused[index] = "no program found outside the reasoning"
            elif len(fields["source"].encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
                self.refused[index] = f"program refused: more than {MAX_SOURCE_BYTES} bytes"
            else:
                try:
                    job = CodeJob.model_validate(fields)
                except ValidationError as error:
                    raise CallFailed(f"the task's tests are malformed: {first_error(error)}") from None
                self.programs[index] = sandbox.submit(job, self._step)
                futures.append(self.programs[index])

    def _step(self) -> None:
        self.num_steps += 1

    def verdict(self, index: int) -> Verdict:
        """Verdict of one rollout, once every call is done."""
        outcome, score, detail, wall_s = self._accuracy(index)
        accuracy = None if self.kind is None and self.code is None else score
        rewards: dict[str, float | None] = {component.name: None for component in self.reward.components}
        for component in self.components:
            rewards[component.name] = accuracy if component.kind == "accuracy" else self._reward(component, index)
        reward = self._sum(self.components, rewards)
        if reward is None:
            raise RewardFault(self._nothing_applies(index), final=True)
        if accuracy is None:
            models = [component for component in self.components if component.model is not None and component.weight]
            judged = self._sum(models, rewards)
            outcome = "pass" if (reward if judged is None else judged) > 0 else "fail"
        return Verdict(
            outcome=outcome, reward=reward, rewards=rewards, detail=detail[:_DETAIL_CHARACTERS], wall_s=wall_s
        )

    def blame(self, future: Future[Any], error: BaseException) -> BaseException:
        """The error to raise for a call that failed: a user's function is named."""
        for component in self.components:
            if self.function.get(component.name) is future and isinstance(error, CallFailed):
                return RewardFault(f"{_named(component)}: {error}", final=False)
        return error

    def _reward(self, component: RewardComponent, index: int) -> float | None:
        """A component's value for one rollout (all kinds but accuracy)."""
        match component.kind:
            case "format":
                return format_tags.score(self.responses[index], component.mode)
            case "language":
                return float(_value(self.language[component.name, index]))
            case "reward_model":
                return self.scores[component.name][index].result()
            case "function":
                return self._function_values(component)[index]
        raise AssertionError(component.kind)

    def _function_values(self, component: RewardComponent) -> list[float | None]:
        """What a user's function gave for the group; RewardFault when it broke its contract or gave nothing."""
        try:
            outcome = self.function[component.name].result().value
        except LimitExceeded as error:
            raise RewardFault(f"{_named(component)} took {error}", final=False) from None
        if "fault" in outcome:
            raise RewardFault(f"{_named(component)} {outcome['fault']}", final=bool(outcome["final"]))
        values: list[float | None] = outcome["values"]
        return values

    def _sum(self, components: Sequence[RewardComponent], rewards: Mapping[str, float | None]) -> float | None:
        """Weighted sum of the components that gave a value; None if none did."""
        values = [
            component.weight * value for component in components if (value := rewards[component.name]) is not None
        ]
        return sum(values) if values else None

    def _nothing_applies(self, index: int) -> str:
        silent = [_named(component) for component in self.components if component.function is not None]
        if silent:
            return (
                f"rollout {index} has no reward: {' and '.join(silent)} gave None and nothing else applies; "
                "return a number, or add a component that always applies (format)"
            )
        given = [_named(component) for component in self.reward.components]
        return (
            f"no reward applies to a task of kind {self.spec.get('kind')!r} with these columns: "
            f"{', '.join(given)}; see their `when`"
        )

    def _language(self, component: RewardComponent) -> str:
        """The language that the reasoning should be in.

        `auto`: the problem's column `language`, else its `meta.language` (as in MGSM), else English. A program's
        `language` is the programming language.
        """
        if component.language != AUTO:
            return component.language
        meta = self.columns.get("meta")
        places = [] if self.code is not None else [self.columns.get("language")]
        places.append(meta.get("language") if isinstance(meta, dict) else None)
        found = next((language for language in places if language is not None), DEFAULT_LANGUAGE)
        if found not in SCRIPTS_OF_LANGUAGE:
            raise RewardFault(
                f"{_named(component)} with language: auto: the problem's language is {str(found)[:40]!r}; known: "
                f"{', '.join(sorted(SCRIPTS_OF_LANGUAGE))}",
                final=True,
            )
        return str(found)

    def _answer(self, index: int, response: Response) -> str | None:
        """The answer to compare; None, with the reason in `refused`, when there is none."""
        if self.kind is None:
            return None
        answer = self.kind.extract(response)
        if answer is None:
            self.refused[index] = "no answer found outside the reasoning"
        elif (size := len(answer.encode("utf-8", "surrogatepass"))) > self.kind.max_answer_bytes:
            self.refused[index] = f"answer of {size} bytes refused (at most {self.kind.max_answer_bytes})"
        else:
            return answer
        return None

    def _accuracy(self, index: int) -> _Accuracy:
        if self.code is not None:
            return self._program(index)
        if self.kind is None:
            return "fail", 0.0, "no accuracy for this task", 0.0
        future = self.accuracy.get(index)
        if future is None:
            return "fail", 0.0, self.refused[index], 0.0
        error = future.exception()
        if error is not None:
            return "timeout", 0.0, f"the comparison took {error}", self.reward.math_timeout_s
        result = future.result()
        score = float(result.value["score"])
        return ("pass" if score >= 1.0 else "fail"), score, str(result.value["detail"]), result.wall_s

    def _program(self, index: int) -> _Accuracy:
        future = self.programs.get(index)
        if future is None:
            return "fail", 0.0, self.refused[index], 0.0
        result = future.result()
        if result.verdict == "infra_error":
            raise CallFailed(f"the sandbox: {result.detail}")
        return result.verdict, result.reward, result.detail, result.wall_s

    def _function_call(self, component: RewardComponent, limit_s: float) -> Call:
        num = len(self.texts)
        arguments = {
            "path": component.function,
            "prompts": [self.prompt] * num,
            "completions": list(self.texts),
            "columns": {name: [value] * num for name, value in self.columns.items()},
        }
        return Call("evaluator.graders.user_function:grade", arguments, limit_s, "wall")


class Sandbox(Protocol):
    """Grades programs: evaluator.sandbox.grader.CodeGrader."""

    def submit(self, job: CodeJob, progress: Callable[[], None]) -> Future[CodeResult]:
        """The Future yields a CodeResult; it raises nothing that the program could cause."""


class Scorer(Protocol):
    """Asks reward models: evaluator.scoring.client.ScoringClient."""

    def submit(self, model: str, prompt: str, texts: Sequence[str], group: str) -> list[Future[float]]:
        """One Future per text yields its score, or raises CallFailed: a score is never guessed."""


def _named(component: RewardComponent) -> str:
    """A component as errors name it."""
    return f"reward component {component.name!r}" + (f" ({component.function})" if component.function else "")


def _columns_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The task's columns; CallFailed if they cannot be handed to a function."""
    columns = spec.get("columns") or {}
    if not isinstance(columns, dict) or {"prompts", "completions"} & columns.keys():
        raise CallFailed(f"spec.columns must map names other than prompts and completions, got {str(columns)[:80]}")
    return columns


def _code_of(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a task that asks for a program says of it; CallFailed if that is malformed."""
    if spec.get("kind") != CODE:
        return None
    code = spec.get("code")
    if not isinstance(code, dict) or not isinstance(code.get("language"), str):
        raise CallFailed(f"a task of kind 'code' needs spec.code with language and tests, got {str(code)[:80]}")
    return code


def _kind_of(spec: Mapping[str, Any]) -> AccuracyKind | None:
    """How the task's accuracy is graded; None for tasks without one. CallFailed for unknown kinds."""
    name = spec.get("kind")
    if name == NO_ACCURACY:
        return None
    kind = accuracy_kind(name) if isinstance(name, str) else None
    if kind is None:
        raise CallFailed(f"no grader for accuracy kind {name!r}; known: {', '.join([*accuracy_kinds(), CODE])}")
    return kind


def _value(future: Future[Result]) -> Any:
    """Result of a call whose limit is the evaluator's matter, not the answer's."""
    try:
        return future.result().value
    except LimitExceeded as error:
        raise CallFailed(f"a reward component took {error}") from None
