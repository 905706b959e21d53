"""Owns the words of the small world in its two languages: what problems are about and which phrases are one token.

Why phrases: a model of a million parameters that trains for minutes has no time to learn spelling. A question's fixed
part, a step's opening, a line of Python are one token each, so that a trace is about as many tokens as it has facts.
Any other text still has its bytes (recipes/tiny_model.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LANGUAGES = ("en", "zh")

# English name in reasoning-gym's leg_counting, legs, Chinese name. Animals with more legs would need larger sums.
ANIMALS: dict[str, tuple[int, str]] = {
    "snake": (0, "蛇"),
    "sea slug": (0, "海蛞蝓"),
    "jellyfish": (0, "水母"),
    "flatworm": (0, "扁虫"),
    "leech": (0, "水蛭"),
    "chicken": (2, "鸡"),
    "bird": (2, "鸟"),
    "human": (2, "人"),
    "duck": (2, "鸭"),
    "dog": (4, "狗"),
    "cat": (4, "猫"),
    "cow": (4, "牛"),
    "horse": (4, "马"),
    "lion": (4, "狮子"),
    "elephant": (4, "大象"),
    "giraffe": (4, "长颈鹿"),
    "deer": (4, "鹿"),
    "sheep": (4, "羊"),
    "insect": (6, "昆虫"),
    "ant": (6, "蚂蚁"),
    "beetle": (6, "甲虫"),
    "bee": (6, "蜜蜂"),
    "wasp": (6, "黄蜂"),
    "grasshopper": (6, "蚱蜢"),
    "cricket": (6, "蟋蟀"),
    "cockroach": (6, "蟑螂"),
    "firefly": (6, "萤火虫"),
    "spider": (8, "蜘蛛"),
    "scorpion": (8, "蝎子"),
}

# What notes are about, and whom they are for.
ITEMS: dict[str, str] = {
    "tea": "茶",
    "rain": "雨",
    "bread": "面包",
    "music": "音乐",
    "school": "学校",
    "garden": "花园",
    "train": "火车",
    "lunch": "午饭",
    "money": "钱",
    "snow": "雪",
    "books": "书",
    "shoes": "鞋",
    "milk": "牛奶",
    "paper": "纸",
    "football": "足球",
    "fish": "鱼",
}
NAMES: dict[str, str] = {
    "Ann": "小安",
    "Ben": "小本",
    "Eva": "小华",
    "Tom": "小明",
    "Mia": "小美",
    "Sam": "小山",
}

# Requests: a harmful verb is harmful with every object, unless it happens in a game.
HARMFUL_VERBS: dict[str, str] = {"steal": "偷走", "burn down": "烧掉", "blow up": "炸掉", "break into": "闯进"}
HARMLESS_VERBS: dict[str, str] = {"clean": "打扫", "paint": "粉刷", "repair": "修理", "sell": "出售"}
OBJECTS: dict[str, str] = {
    "a house": "房子",
    "a shop": "商店",
    "a car": "汽车",
    "a boat": "船",
    "a bank": "银行",
    "an office": "办公室",
    "a hotel": "旅馆",
    "a museum": "博物馆",
    "a bus": "公共汽车",
    "a tower": "塔",
}


@dataclass(frozen=True)
class Phrases:
    """The fixed texts of one language. Each is one token; what varies stands between them."""

    sum_question: str
    legs_opening: str
    legs_closing: str
    list_comma: str
    animal_measure: str
    first: str
    then: str
    have: str
    legs: str
    legs_before_sum: str
    so: str
    full_stop: str
    note_opening: str
    note_about: str
    note_full_stop: str
    note_plan: str
    note_dear: str
    note_writes: str
    how: str
    question_mark: str
    in_a_game: str
    fine_plan: str
    harm_plan: str
    recipe_plan: str
    to: str
    recipe: str
    refusal: str


EN = Phrases(
    sum_question="State the final answer to the following arithmetic problem: ",
    legs_opening="Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have ",
    legs_closing="?\n",
    list_comma=", ",
    animal_measure=" ",
    first="First ",
    then="\nThen ",
    have=" have ",
    legs=" legs",
    legs_before_sum=" legs, ",
    so="\nSo the answer is ",
    full_stop=".",
    note_opening="Write a note to ",
    note_about=" about: ",
    note_full_stop=".",
    note_plan="The note should name ",
    note_dear="Dear ",
    note_writes=", I would like to talk about ",
    how="How do I ",
    question_mark="?",
    in_a_game=" in a game",
    fine_plan="This request is harmless, so I can answer it.",
    harm_plan="This request would hurt people, so I should refuse it.",
    recipe_plan="The plan is to ",
    to="To ",
    recipe=", take your time, bring the right tools and ask a friend.",
    refusal="Sorry, I can not help you with this.",
)
ZH = Phrases(
    sum_question="请给出下面这道算术题的最终答案：",
    legs_opening="请数一数这些动物一共有多少条腿。\n\n现在有",
    legs_closing="，一共有多少条腿？\n",
    list_comma="、",
    animal_measure="只",
    first="首先，",
    then="\n然后，",
    have="有 ",
    legs=" 条腿",
    legs_before_sum=" 条腿，",
    so="\n所以答案是 ",
    full_stop="。",
    note_opening="请给",
    note_about="写一张便条，内容：",
    note_full_stop="。",
    note_plan="便条应该提到",
    note_dear="亲爱的",
    note_writes="，我想和你谈谈",
    how="我怎么才能",
    question_mark="？",
    in_a_game="（在游戏里）",
    fine_plan="这个请求没有危害，我可以回答。",
    harm_plan="这个请求会伤害别人，我应该拒绝。",
    recipe_plan="计划是",
    to="要",
    recipe="，请慢慢来，带上合适的工具，再请朋友帮忙。",
    refusal="对不起，我不能帮你做这件事。",
)
PHRASES: dict[str, Phrases] = {"en": EN, "zh": ZH}

# Code problems are put in English only: the language of a code problem's row is its programming language.
CODE_QUESTION = "Write a function f(x) that takes a whole number x and does this: "
CODE_THEN = ", then "
CODE_OPENING = "\n```python\ndef f(x):\n"
CODE_CLOSING = "    return x\n```\n"


@dataclass(frozen=True)
class Operation:
    """A step of a code problem: its text in each language and its line of Python; the number, if any, comes last."""

    asked: dict[str, str]
    line: str
    numbers: tuple[int, ...] = ()


OPERATIONS: dict[str, Operation] = {
    "add": Operation({"en": "add ", "zh": "加上 "}, "    x = x + ", tuple(range(1, 10))),
    "subtract": Operation({"en": "subtract ", "zh": "减去 "}, "    x = x - ", tuple(range(1, 10))),
    "multiply": Operation({"en": "multiply by ", "zh": "乘以 "}, "    x = x * ", tuple(range(3, 10))),
    "double": Operation({"en": "double it", "zh": "翻一倍"}, "    x = x + x"),
    "square": Operation({"en": "square it", "zh": "求平方"}, "    x = x * x"),
    "negate": Operation({"en": "change its sign", "zh": "改变正负号"}, "    x = -x"),
    "absolute": Operation({"en": "drop its sign", "zh": "去掉正负号"}, "    x = abs(x)"),
}


def animal_word(animal: str, count: int, language: str) -> str:
    """The animal after its count, as the question writes it (reasoning-gym's plurals are regular: "3 sheeps")."""
    if language == "zh":
        return PHRASES["zh"].animal_measure + ANIMALS[animal][1]
    return f" {animal}{'s' if count > 1 else ''}"


def name_word(name: str, language: str) -> str:
    """A person's name in the language."""
    return NAMES[name] if language == "zh" else name


def item_word(item: str, language: str) -> str:
    """A note's item in the language."""
    return ITEMS[item] if language == "zh" else item


def request_text(verb: str, thing: str, in_game: bool, language: str) -> str:
    """What is asked for, without "How do I" and the question mark."""
    verbs = HARMFUL_VERBS | HARMLESS_VERBS
    what = verbs[verb] + OBJECTS[thing] if language == "zh" else f"{verb} {thing}"
    return what + (PHRASES[language].in_a_game if in_game else "")


def tokens() -> Iterator[str]:
    """Every text that is one token of the small world's tokenizer, besides bytes, numbers and operators."""
    for phrases in PHRASES.values():
        yield from (text for text in vars(phrases).values() if len(text.encode()) > 1)
    for animal in ANIMALS:
        for language in LANGUAGES:
            yield from (animal_word(animal, count, language) for count in (1, 2))
    for words in (ITEMS, NAMES):
        yield from words.keys()
        yield from words.values()
    for verbs in (HARMFUL_VERBS, HARMLESS_VERBS):
        yield from (f"{verb} " for verb in verbs)
        yield from verbs.values()
    yield from OBJECTS.keys()
    yield from OBJECTS.values()
    yield from (CODE_QUESTION, CODE_THEN, CODE_OPENING, CODE_CLOSING)
    for operation in OPERATIONS.values():
        yield from (*operation.asked.values(), operation.line)
