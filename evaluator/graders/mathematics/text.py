r"""Same mathematics, fewer spellings: `clean` takes delimiters, colours, spacing commands and Unicode signs away.

Text commands become `\text{...}` (unless they hold mathematics), fractions `\frac`, relations `\le \ge \ne`, degrees
`\deg`, thousands lose their commas. Linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    **dict.fromkeys("−–—﹣－‐‑", "-"),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("   \u2009\u202f\u3000", " "),
    **dict.fromkeys("≤⩽≦", r"\le "),
    **dict.fromkeys("≥⩾≧", r"\ge "),
    **dict.fromkeys("’′", "'"),
    **{chr(0xFF01 + n): chr(0x21 + n) for n in range(94)},
    "＄": "$",
    "÷": r"\div ",
    "⁄": "/",
    "∕": "/",
    "∗": "*",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\R ",
    "∖": r"\setminus ",
    "√": r"\surd ",
    "∛": r"\curt ",
    "°": r"\deg ",
    "º": r"\deg ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "Δ": r"\Delta ",
    "\u200b": "",
    "\ufeff": "",
    "…": r"\ldots ",
}
_VULGAR = {
    sign: rf" \frac{{{n}}}{{{d}}}"
    for sign, n, d in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)
}
_TABLE = str.maketrans({**_SIGNS, **_VULGAR})
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ"
_PLAIN = "0123456789+-n"
_UP = re.compile(f"[{_RAISED}]+")
_DOWN = re.compile(f"[{_LOWERED}]+")
_UP_TABLE, _DOWN_TABLE = str.maketrans(_RAISED, _PLAIN), str.maketrans(_LOWERED, _PLAIN)

_GROUP = re.compile(r"(?<=\d)(?:\{,\s*\}|,\\!|\\[,!;: ]|~)(?=\d{3}(?!\d))")
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])(?<![(\[{,][-+])\d{1,3}(?:,\d{3})+(?![\d,)\]}])")
_LONE_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_COLOUR = re.compile(r"\\(?:textcolor|color|colorbox)\s*(?:\[[^\]]*\])?\{[^{}]*\}")
_DROPPED = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|large|Large|LARGE|huge|Huge|small|normalsize|limits|nolimits|mathstrut"
    r"|bf|it|rm|left\.|right\.|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|middle)(?![A-Za-z])"
    r"|\\(?:left|right)(?![A-Za-z])\.?|\\phantom\s*(?:\{[^{}]*\}|\S)|\\(?:hspace|vspace|label|tag)\*?\{[^{}]*\}"
)
_SPACE = re.compile(r"(?<!\\)\\(?:(?:quad|qquad|enspace|thinspace)(?![A-Za-z])|[,;:!>\s])|~|&nbsp;|<br ?/?>")
_WRAPPER = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|pmb|underline|fbox|boxed|mathit|mathsf|mathnormal|ensuremath|textup|hbox"
    r"|overbrace|underbrace|emph|mathop|operatorname)\*?\s*(?=\{)"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_NESTED_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm)\s*(?=\{[^{}]*\{)")
_STYLED = re.compile("[\U0001d400-\U0001d7ff]")  # mathematical italic and the like
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mbox|textsc)\s*\{([^{}]*)\}")
_TEXT_RATIO = re.compile(r"\\text\{([^{}]*)\}\s*/\s*\\text\{([^{}]*)\}")
_COUNTED = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s*([^\W\d][^\d]*)")
_SYNONYMS = (
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:neq|not\s*=)"), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:approxeq|simeq|thickapprox|sim)(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\^\s*(?:\{\s*\\(?:circ|deg)\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])"), r"\\deg "),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lparen)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rparen)(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:langle)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rangle)(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\mathbb\s*\{?\s*R\s*\}?|\\(?:reals|Reals)(?![A-Za-z])"), r"\\R "),
    (re.compile(r"\\(?:backslash|smallsetminus)(?![A-Za-z])|\\R\s*\\?-\s*(?=\\\{)"), r"\\setminus "),
    (re.compile(r"\\(?:lor|vee)(?![A-Za-z])"), " or "),
    (re.compile(r"\\(?:land|wedge)(?![A-Za-z])"), " and "),
    (re.compile(r"\\(?:inf|infinity)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\(?:angle|measuredangle|triangle|therefore)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:vec|overrightarrow)\s*\{\s*([A-Za-z]+)\s*\}|\\overline\s*\{\s*([A-Z]{2})\s*\}"), r"\1\2"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\{,\}"), ","),
)
_NAMED = re.compile(
    r"(?<![A-Za-z\\])(sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|pi|theta|infty|infinity|inf|oo)"
    r"(?![A-Za-z])"
)
_WORDED = (
    (re.compile(r"\s*(?:all|any|the set of(?: all)?|the)?\s*(?:real numbers?|reals)\s*", re.I), r"\\R "),
    (re.compile(r"\s*(?:the )?(?:empty|null) set\s*", re.I), r"\\emptyset "),
    (re.compile(r"\s*,?\s*(and|or)\s*,?\s*", re.I), lambda found: f" {found[1].lower()} "),
)
_FENCES = (("**", "**"), ("__", "__"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def clean(text: str) -> str:
    """The spelling that the reader knows. Blank if there is nothing but decoration."""
    text = _STYLED.sub(lambda letter: unicodedata.normalize("NFKC", letter[0]), text)
    text = _UP.sub(lambda run: f"^{{{run[0].translate(_UP_TABLE)}}}", text)
    text = _DOWN.sub(lambda run: f"_{{{run[0].translate(_DOWN_TABLE)}}}", text)
    text = _unfenced(text.translate(_TABLE).strip())
    text = _COLOUR.sub("", _GROUP.sub("", text))
    text = _NESTED_TEXT.sub("", text)
    text = _WRAPPER.sub("", _FRACTION.sub(r"\\frac", text))
    text = _DROPPED.sub("", _SPACE.sub(" ", text))
    text = _TEXT_RATIO.sub(r"\\text{\1/\2}", _TEXT.sub(_text, text))
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    text = _outside_text(text)
    text = _unpriced(text)
    text = (_LONE_THOUSANDS if not re.search(r"[(\[{]", text) else _THOUSANDS).sub(_joined, text)
    text = re.sub(r"\s+", " ", text).strip().removeprefix("=").lstrip()
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    while text.endswith((",", ";", ".")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    return _unwrapped(text)


def _joined(number: re.Match[str]) -> str:
    return number[0].replace(",", "")


def _unfenced(text: str) -> str:
    """Without delimiters around the whole."""
    for opening, closing in _FENCES * 2:
        inner = text[len(opening) : -len(closing)]
        enough = len(text) > len(opening) + len(closing)
        if enough and text.startswith(opening) and text.endswith(closing) and opening not in inner:
            text = inner.strip()
        text = text.rstrip(".").strip() if not text.endswith("...") else text
    return text


def _unpriced(text: str) -> str:
    r"""Delimiters within off; a dollar sign that is money stays, as `\$`."""
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2:
        return re.sub(r"(?<!\\)\$", r"\\$", text, count=1).replace(r"\\$", r"\$")
    return re.sub(r"(?<!\\)\$", " ", text)


def _text(found: re.Match[str]) -> str:
    r"""A text command: connectives and mathematics come out, words stay in `\text{}`."""
    inner = found[1].strip().strip("$").strip()
    if not re.search(r"[^\W\d_]", inner) or inner in ("e", "i") or re.fullmatch(r"\d+[A-Z]+\w*", inner):
        return f" {inner} "
    for pattern, replacement in _WORDED:
        if pattern.fullmatch(inner):
            return pattern.sub(replacement, inner)
    if counted := _COUNTED.fullmatch(inner):
        return rf" {counted[1]} \text{{{counted[2]}}}"
    return rf"\text{{{found[1]}}}"


def _outside_text(text: str) -> str:
    """Names without a backslash, and worded sets, outside text commands."""
    for pattern, replacement in _WORDED[:2]:
        if pattern.fullmatch(text):
            return pattern.sub(replacement, text).strip()
    pieces = re.split(r"(\\text\{[^{}]*\})", text)
    pieces[::2] = [_NAMED.sub(lambda name: rf"\{name[1]} ", piece) for piece in pieces[::2]]
    return re.sub(r"\\(?:infinity|inf|oo) ", r"\\infty ", "".join(pieces))


def _unwrapped(text: str) -> str:
    """Without braces around the whole, unless they hold a list."""
    for _ in range(4):
        if not (text.startswith("{") and text.endswith("}")) or "," in text or not _matched(text):
            break
        text = text[1:-1].strip()
    return text


def _matched(text: str) -> bool:
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return index == len(text) - 1
    return False
