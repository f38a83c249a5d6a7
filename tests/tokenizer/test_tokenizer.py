"""Text to ids and back."""

from __future__ import annotations

import pickle
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import RequestError, SettingError, VocabularyError
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary
from tests.tokenizer.vocabularies import (
    SMALL_N,
    SMALL_RANKS,
    published_tokenizer,
    small_tokenizer,
    tiktoken_line,
    write_small_vocabulary,
)

PUBLISHED_VECTORS = [
    ('print("<|endoftext|>")', (), [1350, 9639, 91, 8691, 723, 427, 91, 82598]),
    ('print("<|endoftext|>")', "all", [1350, 445, 151643, 899]),
    (
        'print("<|extra_0|>")<|endoftext|>',
        ("<|endoftext|>",),
        [1350, 9639, 91, 15460, 62, 15, 91, 82598, 151643],
    ),
    ("Hello, world!", (), [9707, 11, 1879, 0]),
    ("你好", (), [108386]),
    ("12345", (), [16, 17, 18, 19, 20]),
    ("我是一只猫", (), [35946, 99639, 91680, 100472]),
    ("\n", (), [198]),
    ("\n\n", (), [271]),
    ("system", (), [8948]),
    ("user", (), [872]),
    ("assistant", (), [77091]),
    (" A B C D", (), [362, 425, 356, 422]),
    ("Observation:", (), [37763, 367, 25]),
    ("Observation:\n", (), [37763, 367, 510]),
    ("Human:", (), [33975, 25]),
    ("Pandas", (), [47, 55433]),
    (" Pandas", (), [33506, 300]),
    ("I'M don't", (), [40, 27603, 1513, 944]),
    ("e\u0301", (), [963]),
    ("🤗", (), [144834]),
    ("0.5kg", (), [15, 13, 20, 7351]),
    ("def f(x):\n    return x\n", (), [750, 282, 2075, 982, 262, 470, 856, 198]),
]


@pytest.mark.parametrize(("text", "allowed", "ids"), PUBLISHED_VECTORS)
def test_published_vectors(text: str, allowed: str | tuple[str, ...], ids: list[int]) -> None:
    assert published_tokenizer().encode(text, allowed_special=allowed) == ids


def test_published_vocabulary_has_151851_tokens() -> None:
    assert published_tokenizer().num_tokens == 151_851
    assert published_tokenizer().eod_id == 151_643


def test_extra_vocabulary_is_used_by_encode(tmp_path: Path) -> None:
    words = ("一只猫", "只猫", "是一只猫", "我是一只猫", "你是一只猫", "他是一只猫")
    extra = tmp_path / "extra.tiktoken"
    extra.write_bytes(b"".join(tiktoken_line(word.encode(), 151_851 + i) for i, word in enumerate(words)))
    tokenizer = TiktokenTokenizer(published_tokenizer().vocabulary)
    tokenizer.vocabulary.save(tmp_path / "qwen.tiktoken")
    tokenizer = TiktokenTokenizer.load(tmp_path / "qwen.tiktoken", extra)
    assert tokenizer.encode("我是一只猫") == [151_854]
    assert tokenizer.num_tokens == 151_857
    assert tokenizer.decode([151_854, 151_643], skip_special_tokens=True) == "我是一只猫"


@given(st.text())
def test_decode_undoes_encode_up_to_nfc_and_lone_surrogates(text: str) -> None:
    tokenizer = small_tokenizer()
    normal = unicodedata.normalize("NFC", text)
    expected = normal.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@given(st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=5) | st.sampled_from(["<|im", "_end|>", "|>"])))
def test_text_never_becomes_a_special_token_by_default(parts: list[str]) -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("".join(parts))
    assert not any(tokenizer.is_special(token_id) for token_id in ids)


# Of every class in the pattern, of both kinds of line break, what NFC joins to the character before, and what Python
# alone takes for whitespace.
PIECES = (*"aB7 \t\n\r\u2028\x85\x1c.!你。\u0301\ud83d\ude00", "'s")


@pytest.mark.parametrize("tokenizer", [small_tokenizer, published_tokenizer])
def test_a_text_is_split_only_where_its_parts_have_its_ids(tokenizer: Callable[[], TiktokenTokenizer]) -> None:
    encode, splits_at = tokenizer().encode, tokenizer().splits_at

    @given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
    def check(text: str) -> None:
        for place in range(-1, len(text) + 2):
            if splits_at(text, place):
                assert encode(text[:place]) + encode(text[place:]) == encode(text), (text, place)

    check()


def test_a_text_is_split_between_its_lines_but_not_inside_them() -> None:
    text = "Q: 1\n\nQ: 2\n 3"
    assert [place for place in range(-1, 20) if small_tokenizer().splits_at(text, place)] == [text.index("Q", 1)]


def test_lone_surrogates_become_replacement_characters() -> None:
    assert small_tokenizer().decode(small_tokenizer().encode("a\ude00b")) == "a\ufffdb"


def test_a_disallowed_special_token_in_a_text_is_refused() -> None:
    with pytest.raises(RequestError, match=r"disallowed special token '<\|im_end\|>'"):
        small_tokenizer().encode("x<|im_end|>", disallowed_special="all")
    with pytest.raises(RequestError, match=r"disallowed special token '<\|im_end\|>'"):
        small_tokenizer().encode("x<|im_end|>", allowed_special={"<|im_start|>"}, disallowed_special=["<|im_end|>"])


def test_skip_special_tokens_keeps_everything_else() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.decode([ord("a"), tokenizer.im_end_id, ord("b")]) == "a<|im_end|>b"
    assert tokenizer.decode([ord("a"), tokenizer.im_end_id, ord("b")], skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("bad", [SMALL_N + 208, -1, 1 << 40, "a", None, 1.0])
def test_an_id_of_no_token_is_a_request_error_that_names_it(bad: object) -> None:
    with pytest.raises(RequestError, match=f"{bad!r} is not a token id"):
        small_tokenizer().decode([65, bad])  # type: ignore[list-item]
    with pytest.raises(RequestError, match=f"{bad!r} is not a token id"):
        small_tokenizer().decode_bytes(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(("errors", "text"), [("replace", "a\ufffd"), ("ignore", "a"), ("backslashreplace", r"a\xe4")])
def test_errors_says_what_happens_to_bytes_that_are_no_text(errors: str, text: str) -> None:
    assert small_tokenizer().decode([ord("a"), 0xE4], errors=errors) == text


def test_strict_decoding_of_bytes_that_are_no_text_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="not valid UTF-8"):
        small_tokenizer().decode([0xE4], errors="strict")


def test_an_unknown_error_handler_is_refused() -> None:
    with pytest.raises(SettingError, match="errors is 'shout'"):
        TiktokenTokenizer(Vocabulary.from_ranks(SMALL_RANKS), errors="shout")


def test_tokens_are_given_as_bytes() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.decode_bytes(SMALL_RANKS[b"abcd"]) == b"abcd"
    assert tokenizer.decode_bytes(tokenizer.im_end_id) == b"<|im_end|>"


def test_a_pickled_tokenizer_encodes_as_before() -> None:
    tokenizer = TiktokenTokenizer(Vocabulary.from_ranks(SMALL_RANKS), errors="ignore")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("abcd 你<|im_end|>") == tokenizer.encode("abcd 你<|im_end|>")
    assert copy.decode([0xE4]) == ""


def test_a_directory_stands_for_its_vocabulary(tmp_path: Path) -> None:
    write_small_vocabulary(tmp_path / "any.tiktoken")
    assert TiktokenTokenizer.load(tmp_path).num_tokens == SMALL_N + 208
    (tmp_path / "other.tiktoken").touch()
    with pytest.raises(VocabularyError, match=r"2 \.tiktoken files"):
        TiktokenTokenizer.load(tmp_path)
    write_small_vocabulary(tmp_path / "qwen.tiktoken")
    assert TiktokenTokenizer.load(tmp_path).num_tokens == SMALL_N + 208


@pytest.mark.parametrize("name", ["", "absent", "nul\0byte"])
def test_a_path_without_a_vocabulary_is_a_vocabulary_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError):
        TiktokenTokenizer.load(tmp_path / name)


def test_the_tokenizer_imports_no_torch() -> None:
    code = (
        "import sys; from qwartet.tokenizer import chatml, react, stream; "
        "from qwartet.compat import tokenization; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
