"""What is the Chinese catalogue short of? `python -m tests.language_gaps [ROOM ...]` lists it, ready to be filled in.

A text is covered where its translation leaves no English behind, however it came about; a key is stale where no text
uses it. What need not be translated is named here, with the reason.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache

from qwartet.cli.language.catalogue import FOLDER, Catalogue, Found, chinese
from qwartet.cli.language.templates import GAP
from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import verbs
from tests.english_messages import ROOMS, error_texts, logged_texts, printed_texts
from tests.english_texts import Text, help_texts
from tests.put_together import OF_COMMANDS, OF_EVALUATION, OF_PYTHON, OF_THE_ROOMS

# Names that a Chinese text keeps.
TERMS = frozenset(
    """
    act-order API ASCII bf16 bubblewrap bug ChatML CPU CUDA desc_act fp16 fp32 GPTQ GPU GPUs Hessian HTTP HTTPS Host Hub
    humaneval int4 int8 Int4 Int8 IO JSON KB KiB KL KV LogN LoRA Markdown MB MiB GB GiB MLP ModelScope NaN NTK OpenAI
    origin pickle Prometheus Python Qwartet Qwen safetensors seed shell stderr stdin stdout token tokens tok torch top-1
    traceback triton Unicode Unix UTF-8 XDG YAML sha256 SHA-256 ms us ns llama.cpp chatml raw gptq gptq_v2 auto cpu cuda
    mmap pread greedy zh en qwartet python llama-bench llama-batched-bench ttft tpot weights-only avx512
    YaRN vllm vLLM transformers Tab temperature nat awq AWQ AutoAWQ gemm
    vocab merges normalizer decoder invert default model
    DoRA true false True False fork Git logits PyTorch AutoGPTQ modelscope hf
    seccomp code-interpreter Errno Hugging Face EleutherAI L-Eval leval lm-eval matplotlib thefuzz Transformers
    AdamW alpha beta epsilon dropout FSDP accelerate full lora qlora Q-LoRA ZeRO-2 ZeRO-3 deepspeed DeepSpeed
    """.split()  # noqa: SIM905
)
# What click, pydantic, Python and the system say, and where texts come together that cannot be followed.
OTHERS = (
    *OF_THE_ROOMS, *OF_PYTHON, *OF_COMMANDS,
    *(f"{what}; see qwartet chat --help" for what in (
        "no such command 'a'", "no such option: --a", "missing argument 'A'", "missing option '--a'",
        "option '--a' requires an argument", "option '--a' does not take a value",
        "got unexpected extra argument(s) (a)", "invalid value for '--a': 'a' is not one of 'b', 'c'",
        *(f"invalid value for '--a': it must be {bounds}" for bounds in (
            "a valid integer", "a valid number", "greater than or equal to 1", "less than or equal to 1",
        )),
    )),
    "Show this message and exit.", "default: 1", "default: (1)", "env var: A",
    *(f"1 GiB of 2 GiB {done}" for done in ("downloaded", "checked", "written", "converted", "merged")),
    "1 GiB of 2 GiB repacked (kept for the next start)",
    *map(os.strerror, (
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR,
        errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.ENAMETOOLONG, errno.EIO, errno.EINVAL,
        errno.ENOMEM, errno.ELOOP, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.ECONNRESET,
        errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH,
    )),
    "Name or service not known", "Temporary failure in name resolution", "No address associated with hostname",
    "timed out",
    *OF_EVALUATION,
)  # fmt: skip
# Texts of the command line that need no Chinese, and why.
UNTRANSLATED = {
    "Value error, |, unable to (?:parse|interpret) [a-z ]+$": "a pattern for what pydantic says",
    "can't allocate memory: ": "looked for in what torch says",
    ". Did you mean ": "looked for in what click says",
    "a pipe": "compared with the kind of a file",
    ", or ": "looked for in lists",
    ", and ": "looked for in lists",
    "%(asctime)s %(levelname)s %(message)s": "the form of the log, which is English",
    "Bearer {}": "a header of HTTP",
    "{} of {}": "the share of a ceiling, with the name of the ceiling",
    "no problem found": "never put together: it is problems where there are none",
    "kernels, {}": "labels: one for each device",
    "unix:{}  (loading {})": "a path, at run time",
    "remove {}? [y/N] ": "one text with what is removed",
    "{}: {}; did you mean {}": "what is meant brings its question mark",
    "repacked (kept for the next start)": "the end of a line of progress",
    "{} of {} {}": "a line of progress, whose words are the verb's",
    ", with the extra vocabulary {}": "a part of a line about the tokenizer",
    ", repetition_penalty {repetition_penalty:g}, up to {max_new_tokens} tokens": "a part of a line about sampling",
    "profile --out": "a command with its option",
    " at the download": "a part of what pull says",
}
_NAMES = re.compile(
    r"""
    `[^`]*` | '[^']*' | "[^"]*"                    # quoted
    | [!-~]*[A-Za-z0-9*/][._/\\=@<>{}:][!-~]+        # a file, an address, code
    | qwartet(?:\ [a-z][a-z-]*){1,2} | (?<=^)cat    # a command
    | (?<![A-Za-z0-9-])--?[a-zA-Z][A-Za-z0-9-]*    # an option
    | (?<![A-Za-z0-9])\.[a-z]+                     # what a file's name ends with
    | (?<![A-Za-z])(?:[A-Z][a-z]+){2,}(?![A-Za-z])  # a class
    | Qwen-[A-Za-z]+
    | Ctrl-\S | Alt\+\w+ | \$[A-Z_]+ | /[a-z]+!?
    | (?<![A-Za-z])[A-Z][A-Z0-9_-]+(?![A-Za-z]) | [A-Za-z_-]*[0-9][A-Za-z0-9_.-]*
    """,
    re.VERBOSE,
)
_ENGLISH = re.compile(r"[A-Za-z][A-Za-z-]+")


def english_in(text: str, names: frozenset[str] = frozenset()) -> list[str]:
    """English words that are no names."""
    return [word for word in _ENGLISH.findall(_NAMES.sub(" ", text)) if word not in TERMS and word not in names]


@cache
def values() -> frozenset[str]:
    """What can be written on a command line: commands, options without their dashes, and choices."""
    found: set[str] = set()
    for path, command in verbs(command_tree()).items():
        found.update(path)
        for parameter in command.params:
            found.update(option.lstrip("-") for option in parameter.opts)
            found.update((parameter.metavar or "").split("|"))
    return frozenset(found)


def sample(text: str) -> str:
    """A text as it is at run time, with something in its gaps that no key has."""
    return text.replace(GAP, "⟦⟧")


@cache
def texts() -> tuple[Text, ...]:
    """All that the sources can print, each text once."""
    found: dict[str, Text] = {}
    for room in ROOMS:
        for text in error_texts(room):
            found.setdefault(text.text, text)
    for text in (*printed_texts(), *logged_texts()):
        found.setdefault(text.text, text)
    return tuple(sorted(found.values(), key=lambda text: (text.path, text.line)))


def missing(found: Iterable[Text], catalogue: Catalogue) -> list[Text]:
    """The texts that have no Chinese, or only for a part."""
    return [
        text
        for text in found
        if text.text not in UNTRANSLATED
        and english_in(catalogue.translate(sample(text.text)))
        and english_in(catalogue.label(text.text))
    ]


def missing_help(catalogue: Catalogue) -> dict[str, str]:
    """Help without Chinese, and the command that shows it."""
    return {text: path for text, path in help_texts().items() if english_in(catalogue.translate(text), values())}


def used_keys(catalogue: Catalogue) -> set[str]:
    """The keys that the translation of some text comes from."""
    found = [catalogue.find(text) for text in (*(sample(one.text) for one in texts()), *help_texts(), *OTHERS)]
    return {key for one in found if isinstance(one, Found) for key in one.keys}


def keys() -> Iterator[tuple[str, str]]:
    """The keys of all sentences, with their file."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.name != "labels.json":
            yield from ((key, path.name) for key in json.loads(path.read_text(encoding="utf-8")))


def main(rooms: list[str]) -> None:
    """Prints what is missing, by room, and what is stale."""
    catalogue = chinese()
    if not rooms or "help" in rooms:
        for text, path in missing_help(catalogue).items():
            print(f'{json.dumps(text, ensure_ascii=False)}: "",   # help: {path}')
    for text in missing(texts(), catalogue):
        if not rooms or text.room in rooms:
            print(f'{json.dumps(text.text, ensure_ascii=False)}: "",   # {text.place}')
    used = used_keys(catalogue)
    for key, file in keys():
        if key not in used:
            print(f"stale: {file}: {key}")


if __name__ == "__main__":
    main(sys.argv[1:])
