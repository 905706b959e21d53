"""Which languages the language reward knows, by script (Unicode script names, ISO 639-1 codes).

Short lists on purpose: the fewer candidates, the better a few words tell them apart. These are the languages that
pretrained models mix in.
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
