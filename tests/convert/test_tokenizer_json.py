"""tokenizer.json of a `.tiktoken` vocabulary: the same ids in the library tokenizers and in transformers, and back."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from qwartet.convert.qwen2_files import tokenizer_config_json
from qwartet.convert.tokenizer_json import tokenizer_json, vocabulary_of
from qwartet.errors import CheckpointWarning, VocabularyError
from qwartet.tokenizer.byte_alphabet import byte_alphabet, bytes_of, spelled
from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.hf_vocabulary import HfVocabulary
from qwartet.tokenizer.merge_list import merge_list
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.golden_data import golden_jsonl, real_vocabulary
from tests.tiny_checkpoint import tiny_vocabulary
from tests.tokenizer.vocabularies import published_tokenizer

# transformers 5 rebuilds a Qwen2 tokenizer and looks for <|im_end|> and <|endoftext|> before NFC: this text has a
# combining mark after one of them.
MARK_AFTER_SPECIAL = 1


@cache
def published_json() -> dict[str, Any]:
    return tokenizer_json(Vocabulary.load(real_vocabulary()))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A directory with the published vocabulary as a model of a family has it."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            write_tokenizer(made[family], Vocabulary.load(real_vocabulary()), family)
        return made[family]

    return get


def write_tokenizer(directory: Path, vocabulary: Vocabulary, family: Any) -> None:
    """The files that transformers loads a tokenizer from."""
    contents = {
        "tokenizer.json": tokenizer_json(vocabulary),
        "tokenizer_config.json": tokenizer_config_json(vocabulary, family, 8192, is_chat=True),
        "config.json": {"model_type": family},
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def cases() -> list[dict[str, Any]]:
    """The golden texts that are valid Unicode: the library takes no others."""
    return [case for case in golden_jsonl("tokenizer/encode.jsonl") if case["text"].isascii() or is_unicode(case)]


def is_unicode(case: dict[str, Any]) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in case["text"])


def test_the_library_gives_the_originals_ids_and_texts(directory) -> None:
    parsing = Tokenizer.from_file(str(directory("qwen2") / "tokenizer.json"))
    plain = Tokenizer.from_file(str(directory("qwen2") / "tokenizer.json"))
    plain.encode_special_tokens = True  # the library's name for leaving special tokens in a text as text
    assert len(cases()) > 200
    for case in cases():
        tokenizer = parsing if case["allowed_special"] == "all" else plain
        assert tokenizer.encode(case["text"]).ids == case["ids"], case["text"]
        assert parsing.decode(case["ids"], skip_special_tokens=False) == case["decoded"]
        assert parsing.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


@pytest.mark.parametrize(("family", "most"), [("qwen2", MARK_AFTER_SPECIAL), ("llama", 0)])
def test_transformers_gives_the_originals_ids(directory, family: str, most: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory(family))
    parsed = [case for case in cases() if case["allowed_special"] == "all"]
    assert len([case for case in parsed if tokenizer.encode(case["text"]) != case["ids"]]) <= most
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == (
        "<|im_end|>", "<|endoftext|>", 8192,
    )  # fmt: skip
    assert len(tokenizer) == published_tokenizer().num_tokens


@pytest.mark.parametrize("system", [None, "Answer briefly."])
def test_the_chat_template_gives_the_native_prompt(directory, system: str | None) -> None:
    turns = [("user", "你好!"), ("assistant", "Hello."), ("user", "  What is 2+2?\n")]
    messages = [("system", system), *turns] if system else turns
    rendered = AutoTokenizer.from_pretrained(directory("qwen2")).apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], add_generation_prompt=True, return_dict=False
    )
    assert rendered == build_prompt(published_tokenizer(), [Message(role, text) for role, text in messages])


def random_texts(count: int) -> list[str]:
    """Texts of many scripts, digits, spaces and newlines, with combining marks and pieces of special tokens."""
    generator = random.Random(20)
    alphabets = [
        "abcdefghij THEQUICK'stream'll 'S 'RE", "0123456789.,;:!?()[]{}<>|/\\-_+=*&^%$#@~`\"'", " \t\n\r\u3000\u00a0",
        "你好世界天气很不错的一个", "éàüñßøåçşğ", "приветмир", "שלום عربي", "हिन्दी ไทย 한국어 にほんご",
        "\u0301\u0308\u0327\u20dd\u200d\ufe0f", "🤗👩‍👩‍👧🇨🇳", "①Ⅷ½²٣௫𝟘", "ſKÅ",
    ]  # fmt: skip
    specials = ["<|im_start|>", "<|im_end|>", "<|extra_7|>", "<|endoftext", "<|"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(generator.randint(1, 12)):
            alphabet = generator.choice(alphabets)
            parts.append("".join(generator.choices(alphabet, k=generator.randint(1, 9))))
        if generator.random() < 0.2:
            parts.insert(generator.randrange(len(parts)), generator.choice(specials))
        texts.append("".join(parts))
    return texts


def test_random_texts_get_the_same_ids(directory) -> None:
    parsing = Tokenizer.from_file(str(directory("qwen2") / "tokenizer.json"))
    for text in random_texts(2000):
        assert parsing.encode(text).ids == published_tokenizer().encode(text, allowed_special="all"), ascii(text)


def read(content: dict[str, Any]) -> Vocabulary:
    return vocabulary_of(HfVocabulary.from_json(content, "tokenizer.json"))


def built(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary)))


def test_a_token_that_no_merges_lead_to_is_found_where_it_is_a_whole_piece() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"cat": 256, b"ab": 257, b"abab": 258}
    vocabulary = Vocabulary.from_ranks(ranks)
    assert list(merge_list(ranks)) == [(b"a", b"b"), (b"ab", b"ab")]
    tokenizer, ours = built(vocabulary), TiktokenTokenizer(vocabulary)
    for text in ("cat", " cat", "cats", "abab", "ababab", "xabab cat"):
        assert tokenizer.encode(text).ids == ours.encode(text), text


def test_vocabularies_of_random_tokens_give_the_same_ids() -> None:
    generator = random.Random(5)
    for _ in range(20):
        tokens = {bytes([byte]): byte for byte in range(256)}
        while len(tokens) < 400:
            tokens.setdefault(bytes(generator.choices(b"abc", k=generator.randint(2, 5))), len(tokens))
        vocabulary = Vocabulary.from_ranks(tokens)
        tokenizer, ours = built(vocabulary), TiktokenTokenizer(vocabulary)
        for _ in range(50):
            text = "".join(generator.choices("abc", k=generator.randint(1, 30)))
            assert tokenizer.encode(text).ids == ours.encode(text), text


def test_extra_vocabulary_is_included() -> None:
    vocabulary = tiny_vocabulary()
    ranks = {**vocabulary.mergeable_ranks, "天气好".encode()[:7]: 512, "天气好".encode(): 513}
    extended = Vocabulary(ranks, vocabulary.special_tokens, vocabulary.num_ranks)
    text, ours = "天气好 天气 <|im_end|><|extra_204|>", TiktokenTokenizer(extended)
    tokenizer = built(extended)
    assert tokenizer.encode(text).ids == ours.encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode(text).ids == ours.encode(text)
    assert read(tokenizer_json(extended)) == extended


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_transformers_keeps_the_ids_of_extra_vocabulary(tmp_path: Path, family: str) -> None:
    vocabulary = tiny_vocabulary()
    ranks = {**vocabulary.mergeable_ranks, b"models": 512, b"modelsa": 513}
    extended = Vocabulary(ranks, vocabulary.special_tokens, vocabulary.num_ranks)
    assert list(merge_list(ranks))[-2:] == [(b"model", b"s"), (b"models", b"a")]
    write_tokenizer(tmp_path, extended, family)
    text = "models modelsa the model <|im_end|><|extra_204|> mode"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode(text) == TiktokenTokenizer(extended).encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_published_vocabulary_comes_back() -> None:
    published = Vocabulary.load(real_vocabulary())
    assert len(published_json()["model"]["merges"]) == len(published.mergeable_ranks) - 256
    assert read(published_json()) == published


def test_pairs_of_tokens_as_newer_files_have_them_are_read_too() -> None:
    vocabulary = tiny_vocabulary()
    given = tokenizer_json(vocabulary)
    given["model"]["merges"] = [merge.split(" ") for merge in given["model"]["merges"]]
    assert read(given) == vocabulary


def edited(*path: str | int, value: Any) -> dict[str, Any]:
    given: Any = copy.deepcopy(tokenizer_json(tiny_vocabulary()))
    place = given
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return given


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("normalizer",), None, "does not normalise text to NFC"),
        (("model", "merges"), [], "merges are not those"),
        (("model", "merges", 0), "! !", "merge 1 is of"),
        (("added_tokens", 0, "id"), 3, "<|endoftext|>"),
        (("added_tokens", 5, "content"), "<think>", "special token '<think>' with id 309"),
        (("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": r"\w+"}, "pattern of pre_tokenizer"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(path: tuple[str | int, ...], value: Any, words: str) -> None:
    given: Any = copy.deepcopy(tokenizer_json(tiny_vocabulary()))
    place = given
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(VocabularyError) as caught:
        vocabulary_of(HfVocabulary.from_json(given, "tokenizer.json"))
    assert words in str(caught.value)


def test_tokens_that_need_ignore_merges_are_refused_without_it() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"cat": 256}
    given = tokenizer_json(Vocabulary.from_ranks(ranks))
    assert read(given).mergeable_ranks == ranks
    given["model"]["ignore_merges"] = False
    unmerged = pytest.warns(CheckpointWarning, match="no merge makes 1 of the 257 tokens, such as 'cat'")
    with unmerged, pytest.raises(VocabularyError, match="merges are not those"):
        read(given)


def test_every_byte_has_a_character_of_its_own() -> None:
    assert len(set(byte_alphabet())) == 256 and all(character.isprintable() for character in byte_alphabet())
    every = bytes(range(256))
    assert bytes_of(spelled(every)) == every
