"""Which language does the command line speak? `--lang`, else QWARTET_LANG, else the locale; English where in doubt."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qwartet.errors import SettingError

OPTION = "--lang"
VARIABLE = "QWARTET_LANG"
LANGUAGES = ("zh", "en")
_LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # POSIX: the first that is not empty
_SAMPLE = "中文，。；：（）“”"


def take_language(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What --lang says, before or after the verb, and the other arguments; after "--" all is text."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given: str | None = None
    others: list[str] = []
    before = iter(arguments[:end])
    for argument in before:
        if argument == OPTION:
            given = next(before, "")
        elif argument.startswith(f"{OPTION}="):
            given = argument.removeprefix(f"{OPTION}=")
        else:
            others.append(argument)
    return given, [*others, *arguments[end:]]


def chosen_language(given: str | None) -> str:
    """ "zh" or "en", `given` being the value of --lang; SettingError for another value of it or of the variable.

    English where stdout or stderr cannot encode Chinese, whatever was asked for.
    """
    wanted = _locale_language()
    for place, value in ((OPTION, given), (VARIABLE, os.environ.get(VARIABLE) or None)):
        if value is not None:
            if value not in LANGUAGES:
                raise SettingError(f"{place} is {value!r:.80}; it must be {' or '.join(LANGUAGES)}")
            wanted = value
            break
    return wanted if wanted == "en" or _can_show_chinese() else "en"


def _locale_language() -> str:
    """The language of zh_CN.UTF-8, zh_TW, zh_CN@pinyin or zh is "zh"."""
    locale = next(filter(None, map(os.environ.get, _LOCALE_VARIABLES)), "")
    language = locale.replace("-", "_").replace(".", "_").replace("@", "_").partition("_")[0]
    return "zh" if language.lower() == "zh" else "en"


def _can_show_chinese() -> bool:
    for stream in (sys.stdout, sys.stderr):
        try:
            _SAMPLE.encode(getattr(stream, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return False
    return True
