r"""Finds an answer that is announced in words: "the answer is X", "Final Answer: X", `#### X`.

The last announcement counts. One that is negated ("the answer is not 5", "cannot be") or conditional ("if the answer is
5") is none; a doubtful one ("maybe the answer is 5") keeps its doubt, which no grader takes for a value. X runs to the
end of the sentence, mathematics and decimals kept whole, without a reason after a comma.
"""

from __future__ import annotations

import re

_LONGEST = 400
_WORD = re.compile(r"\b(?:answer|ANSWER|Answer)\b(?!\s*(?:key|sheet|choice)s?\b)")
_MARKUP = re.compile(r"(?<![\d\w)}])\*\*|\*\*(?![\d(\\])|__|`")
_ASSERTS = re.compile(
    r"(?:\s+(?:to|of|for|here|in|that)\b[^.\n:?!=]{0,80}?)?\s*[\"']?\s*"
    r"(?:\b(?:is|are|was|equals|becomes|(?:must|should|will|would|has to) be|comes out (?:to|as))\b"
    r"|[:=：])"
)
_NEGATED = re.compile(
    r"\s*(?:\w+\s+){0,4}?(?:is\s+(?:definitely\s+|certainly\s+|clearly\s+)?(?:not|never|no longer)\b|isn['’]t\b"
    r"|(?:can|could|would|should|will|must|may|might|does|do|was)\s*(?:not|n['’]t)\b|can['’]t\b|won['’]t\b|cannot\b|never\b)",
    re.IGNORECASE,
)
_NOT = re.compile(r"\s*(?:definitely\s+|certainly\s+)?(?:not|n['’]t|never|neither)\b", re.IGNORECASE)
_CONDITION = re.compile(r"\b(?:if|whether|suppose|assume|assuming|unless|when|what|why|how)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:don['’]t|doesn['’]t|didn['’]t|do not|does not|not|never|doubt|deny|wrong|false|isn['’]t|incorrect)\b[^.]*$",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|may|could|guess|unsure|alternatively)\b", re.IGNORECASE
)
_MODAL = re.compile(r"\s*(?:might|may|could|can)\s+(?:well\s+)?be\b", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:\s|[:：]|\b(?:then|now|indeed|simply|just|therefore|thus|hence|clearly|exactly|equal to|given by|that)\b)*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[#>\s]*(?:the|my|our|final|correct|\s)*", re.IGNORECASE)
_DISPLAY = {r"\[": r"\]", "$$": "$$", r"\(": r"\)"}
_INLINE = re.compile(r"\$(?!\d[\d,.]*\s+[a-z]{2})(?:[^$\n]|\n(?!\s*\n))+\$")
_REASON = re.compile(
    r"(?:,|;|\s)\s*(?:because|since|as\s+\w+\s+\w+|which|so\s+(?:that|we|the)|where|and\s+not|not|rather\s+than"
    r"|for\s+(?:a|the)\s+total)\b.*|\s*,?\s*I hope\b.*",
    re.IGNORECASE | re.DOTALL,
)
_HASHES = re.compile(r"^####\s*(\\?\$?[-+]?\\?\$?[\d.,/]+)\s*$", re.MULTILINE)


def stated_answer(text: str) -> str | None:
    """The answer that the text announces last; None if it announces none."""
    text = _MARKUP.sub("", text)
    for word in reversed(list(_WORD.finditer(text))):
        found = _announced(text, word.start(), word.end())
        if found is not None:
            return found
    hashes = _HASHES.findall(text)
    return hashes[-1] if hashes else None


def _announced(text: str, start: int, end: int) -> str | None:
    """What the word "answer" at start:end announces; None if nothing or no more than a denial."""
    before = re.split(r"[.!?\n]", text[max(0, start - 100) : start])[-1]
    after = text[end : end + _LONGEST]
    first = after.partition("\n")[0]
    modal = _MODAL.match(first)
    asserts = modal or _ASSERTS.match(first)
    if asserts is None:
        heading = not first.strip(" *#:") and _HEADING.fullmatch(before)
        return _sentence(after[len(first) :]) if heading else None
    if _NEGATED.match(first[: asserts.end() + 20]) or _NOT.match(after[asserts.end() :]):
        return None
    if _DENIED.search(before) or _CONDITION.search(before):
        return None
    found = _sentence(after[asserts.end() :])
    if found is not None and (modal or _DOUBT.search(before)):
        return f"maybe {found}"
    return found


def _sentence(text: str) -> str | None:
    """The statement at the beginning of the text; None if there is none."""
    text = text[_LEAD.match(text).end() :]  # type: ignore[union-attr]
    index = 0
    while index < len(text):
        closing = next((end for begin, end in _DISPLAY.items() if text.startswith(begin, index)), None)
        inline = _INLINE.match(text, index)
        if closing is not None and (stop := text.find(closing, index + 2)) >= 0:
            index = stop + len(closing)
        elif inline:
            index = inline.end()
        elif text[index] == "\n" or (text[index] == "." and not text[index + 1 : index + 2].strip()):
            break
        elif text[index] == "?":
            index += 1
            break
        else:
            index += 1
    found = _REASON.sub("", text[:index]).strip(" *\"'")
    return (found if found.endswith(("$", ")", "]")) else found.rstrip("!")).strip() or None
