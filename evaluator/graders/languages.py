"""Which languages the language reward knows, by script (Unicode script names, ISO 639-1 codes).

Short lists on purpose: the fewer candidates, the better a few words tell them apart. These are the languages that
pretrained models mix in. The eleven of MGSM (en zh de es fr ja ru bn sw te th) are all here.
"""

from __future__ import annotations

LANGUAGES_OF_SCRIPT: dict[str, list[str]] = {
    "Arabic": ["ar", "fa", "ur"],
    "Bengali": ["bn"],
    "Cyrillic": ["ru", "uk", "bg"],
    "Devanagari": ["hi", "mr"],
    "Georgian": ["ka"],
    "Greek": ["el"],
    "Han": ["zh", "ja"],
    "Hangul": ["ko"],
    "Hebrew": ["he"],
    "Kana": ["ja"],
    "Latin": [
        "en",
        "de",
        "fr",
        "es",
        "it",
        "pt",
        "nl",
        "pl",
        "cs",
        "sv",
        "da",
        "fi",
        "hu",
        "ro",
        "tr",
        "vi",
        "id",
        "sw",
    ],
    "Tamil": ["ta"],
    "Telugu": ["te"],
    "Thai": ["th"],
}
SCRIPTS_OF_LANGUAGE: dict[str, frozenset[str]] = {
    language: frozenset(script for script, spoken in LANGUAGES_OF_SCRIPT.items() if language in spoken)
    for languages in LANGUAGES_OF_SCRIPT.values()
    for language in languages
}

# Scripts without blanks: characters (Thai: letters, without its marks) that weigh as much as one word of the others.
# By the 250 problems that MGSM has in all its languages, each measure comes to the 10,900 words of the English ones.
CHARACTERS_PER_WORD: dict[str, float] = {"Han": 1.5, "Kana": 2.75, "Thai": 3.5, "Unspaced": 3.5}


def check_language(language: str) -> None:
    """ValueError naming the known languages unless `language` is one of them."""
    if language not in SCRIPTS_OF_LANGUAGE:
        raise ValueError(
            f"language = {language!r}: not a known language; known: {', '.join(sorted(SCRIPTS_OF_LANGUAGE))}"
        )
