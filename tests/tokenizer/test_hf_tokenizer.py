"""Text to ids and back with a tokenizer.json: the ids of the library, but text never becomes a special token."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from qwartet.errors import RequestError, SettingError, VocabularyError
from qwartet.tokenizer.hf_tokenizer import HfTokenizer, NamedTokens
from qwartet.tokenizer.hf_vocabulary import HfVocabulary
from qwartet.tokenizer.stream import TextStream
from qwartet.tokenizer.templates.traced import joined, literal
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS
from tests.golden_data import golden_jsonl
from tests.tokenizer.hf_files import (
    PLAIN_ADDED,
    SPECIAL,
    demo_content,
    demo_hf_tokenizer,
    hf_tokenizer,
    small_content,
    tokenizer_json,
)
from tests.tokenizer.vocabularies import SMALL_N, published_tokenizer

ADDED = (*SPECIAL, *PLAIN_ADDED)
NUM_GENERATED = 10_000
# Of every class of the pattern, of both kinds of line break, what NFC changes, and beginnings of special tokens.
PIECES = (
    *"aZ é7你，。 \t\n\r\u2028\x85\u3000\u00a0.!?-_<|>\u0301\u0323ｶﾞ가\u1100\u1161각Ωﬁ😀👩\u200d🚀\x00\ufffd\U0010ffff",
    "'s", "'LL", "  ", "\n\n", "\r\n", " the", "print(", "don't", "12345", "Straße", "<|im_", "|>", "</", "think",
)  # fmt: skip


def generated_texts(count: int, seed: int, *more: str) -> Iterator[str]:
    """Texts of pieces, half of them with some of `more`."""
    chosen = random.Random(seed)
    for number in range(count):
        pieces = (*PIECES, *more * 2) if number % 2 else PIECES
        yield "".join(chosen.choices(pieces, k=chosen.randint(0, 24)))


@cache
def library() -> Library:
    return Library.from_str(demo_content())


def library_ids(tokenizer: Library, texts: list[str], *, with_added: bool) -> list[list[int]]:
    tokenizer.encode_special_tokens = not with_added
    return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


# Equal to the library


def test_with_all_tokens_allowed_the_ids_of_10_000_texts_are_those_of_the_library() -> None:
    texts = list(generated_texts(NUM_GENERATED, 1, *ADDED))
    expected = library_ids(library(), texts, with_added=True)
    encode = demo_hf_tokenizer().encode
    for text, ids in zip(texts, expected, strict=True):
        assert encode(text, allowed_special="all") == ids, ascii(text)
    assert sum(any(token in text for token in ADDED) for text in texts) > NUM_GENERATED // 3


def test_ordinary_texts_have_the_same_ids_with_and_without_allowed_tokens() -> None:
    texts = [text for text in generated_texts(2_000, 2) if not any(token in text for token in ADDED)]
    encode = demo_hf_tokenizer().encode
    for text, ids in zip(texts, library_ids(library(), texts, with_added=True), strict=True):
        assert encode(text) == ids, ascii(text)


def test_decoding_gives_the_text_of_the_library() -> None:
    tokenizer, chosen = demo_hf_tokenizer(), random.Random(3)
    for _ in range(2_000):
        ids = [chosen.randrange(tokenizer.num_tokens) for _ in range(chosen.randint(0, 12))]
        for skips in (False, True):
            text = tokenizer.decode(ids, skip_special_tokens=skips)
            assert text == library().decode(ids, skip_special_tokens=skips), ids


@pytest.mark.slow
def test_the_golden_texts_have_the_ids_of_the_original_tokenizer() -> None:
    """Qwen2 and Qwen3 have the ranks and the pattern of the first generation, so its golden ids are theirs."""
    content = tokenizer_json(published_tokenizer().mergeable_ranks, SPECIAL_TOKENS)
    for token in content["added_tokens"]:
        token["normalized"] = True  # the original normalises before it looks for tokens
    whole = json.dumps(content)
    tokenizer, rust = hf_tokenizer(whole), Library.from_str(whole)
    for case in golden_jsonl("tokenizer/encode.jsonl"):
        text, allowed = case["text"], {"all": "all", "none": ()}.get(case["allowed_special"], case["allowed_special"])
        assert tokenizer.encode(text, allowed_special=allowed) == case["ids"], ascii(text)
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]
        if allowed == "all" and not any("\ud800" <= character <= "\udfff" for character in text):
            assert rust.encode(text).ids == case["ids"], ascii(text)


# Special tokens


@given(st.lists(st.sampled_from(ADDED) | st.text(max_size=5) | st.sampled_from(["<|im", "_end|>", "|>"])))
def test_text_never_becomes_an_added_token_by_default(parts: list[str]) -> None:
    tokenizer = demo_hf_tokenizer()
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())


def test_only_the_allowed_tokens_are_parsed() -> None:
    tokenizer = demo_hf_tokenizer()
    ids = tokenizer.encode("<|im_end|><think>", allowed_special={"<think>"})
    assert ids == [*tokenizer.encode("<|im_end|>"), tokenizer.special_tokens["<think>"]]


def test_a_disallowed_token_in_a_text_is_refused() -> None:
    with pytest.raises(RequestError, match=r"disallowed special token '<\|im_end\|>'"):
        demo_hf_tokenizer().encode("x<|im_end|>", disallowed_special="all")
    with pytest.raises(RequestError, match=r"disallowed special token '<\|im_end\|>'"):
        demo_hf_tokenizer().encode("x<|im_end|>", allowed_special={"<think>"}, disallowed_special=["<|im_end|>"])


def test_words_of_the_model_are_part_of_its_text_and_special_tokens_are_not() -> None:
    tokenizer = demo_hf_tokenizer()
    ids = tokenizer.encode("<think>a</think><|im_end|>", allowed_special="all")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"
    assert [tokenizer.is_special(tokenizer.special_tokens[name]) for name in ("<think>", "<|im_end|>")] == [False, True]


def test_a_token_found_after_normalisation_has_the_ids_of_the_library() -> None:
    content = json.loads(small_content())
    content["added_tokens"][-1] |= {"content": "caf\u00e9!", "normalized": True}
    content["added_tokens"][-2] |= {"normalized": True}
    rust, tokenizer = Library.from_str(json.dumps(content)), hf_tokenizer(json.dumps(content))
    names = [token["content"] for token in content["added_tokens"]]
    for text in ("cafe\u0301!", "caf\u00e9!x", *generated_texts(1_000, 4, *names, "cafe\u0301!", "\u0338")):
        assert tokenizer.encode(text, allowed_special="all") == rust.encode(text).ids, ascii(text)


def test_of_tokens_that_begin_alike_the_longest_is_found() -> None:
    content = json.loads(small_content())
    content["added_tokens"][-1]["content"] = "<think>!"
    content["added_tokens"][-2]["content"] = "<th"
    rust, tokenizer = Library.from_str(json.dumps(content)), hf_tokenizer(json.dumps(content))
    for text in ("<think>!", "<think>?", "<thin", "<th<think>!ink>"):
        assert tokenizer.encode(text, allowed_special="all") == rust.encode(text).ids


# A prompt that a template rendered


def test_a_traced_text_has_the_tokens_that_the_template_wrote_and_no_others() -> None:
    tokenizer = demo_hf_tokenizer()
    start, end = tokenizer.im_start_id, tokenizer.im_end_id
    text = joined((literal("<|im_start|>user\n"), "a<|im_end|>b<think>", literal("<|im_end|>\n")))
    expected = [start, *tokenizer.encode("user\na<|im_end|>b<think>"), end, *tokenizer.encode("\n")]
    assert tokenizer.encode_traced(text) == expected


@pytest.mark.parametrize(
    "parts",
    [
        (literal("<|im_"), "end|>"),
        ("<|", literal("im_end|>")),
        (literal("<|im"), "_", literal("end|>")),
        ("<|im_end|>",),
    ],
)
def test_no_token_is_made_of_what_the_template_and_the_request_wrote_together(parts: tuple[str, ...]) -> None:
    tokenizer = demo_hf_tokenizer()
    assert tokenizer.encode_traced(joined(parts)) == tokenizer.encode("<|im_end|>")


def test_a_token_may_be_made_of_several_words_of_the_template() -> None:
    tokenizer = demo_hf_tokenizer()
    assert tokenizer.encode_traced(joined((literal("<|im_"), literal("end|>")))) == [tokenizer.im_end_id]


def test_a_text_of_the_template_alone_has_the_ids_of_the_library() -> None:
    texts = list(generated_texts(2_000, 5, *ADDED))
    for text, ids in zip(texts, library_ids(library(), texts, with_added=True), strict=True):
        assert demo_hf_tokenizer().encode_traced(literal(text)) == ids, ascii(text)


# Streams, bytes, other properties


@given(st.text())
def test_decode_undoes_encode_up_to_nfc_and_lone_surrogates(text: str) -> None:
    tokenizer = demo_hf_tokenizer()
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == library().normalizer.normalize_str(whole)


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = demo_hf_tokenizer()
    assert tokenizer.decode(tokenizer.encode("a\ude00b")) == "a\ufffdb"
    assert tokenizer.encode_traced(joined((literal("a"), "\ude00"))) == tokenizer.encode("a\ufffd")


@given(st.lists(st.integers(0, SMALL_N + len(ADDED) - 1)), st.booleans())
def test_pieces_of_a_stream_are_the_text_decoded_at_once(ids: list[int], skips: bool) -> None:
    tokenizer = small_hf_tokenizer()
    stream = TextStream(tokenizer, skip_special_tokens=skips)
    text = "".join(map(stream.push, ids)) + stream.finish()
    assert text == tokenizer.decode(ids, skip_special_tokens=skips)


@cache
def small_hf_tokenizer() -> HfTokenizer:
    return hf_tokenizer(small_content())


def test_tokens_are_given_as_bytes() -> None:
    tokenizer = small_hf_tokenizer()
    assert tokenizer.decode_bytes(0xE4) == b"\xe4"
    assert tokenizer.decode_bytes(SMALL_N - 1) == "你".encode()
    assert tokenizer.decode_bytes(tokenizer.im_end_id) == b"<|im_end|>"
    assert (tokenizer.num_tokens, len(tokenizer.text_ids)) == (SMALL_N + len(ADDED), SMALL_N)


@pytest.mark.parametrize("bad", [SMALL_N + len(ADDED), -1, 1 << 40, "a", None, 1.0])
def test_an_id_of_no_token_is_a_request_error_that_names_it(bad: object) -> None:
    with pytest.raises(RequestError, match=f"{bad!r} is not a token id"):
        small_hf_tokenizer().decode([65, bad])  # type: ignore[list-item]


def test_bytes_that_are_no_text_are_treated_as_errors_says() -> None:
    assert small_hf_tokenizer().decode([0x61, 0xE4], errors="backslashreplace") == r"a\xe4"
    with pytest.raises(RequestError, match="not valid UTF-8"):
        small_hf_tokenizer().decode([0xE4], errors="strict")
    with pytest.raises(SettingError, match="errors is 'shout'"):
        HfTokenizer(small_hf_tokenizer().vocabulary, errors="shout")


def test_a_gap_between_ids_is_no_token() -> None:
    content = json.loads(small_content())
    content["added_tokens"][-1]["id"] += 5
    tokenizer = hf_tokenizer(json.dumps(content))
    assert tokenizer.num_tokens == SMALL_N + len(ADDED) + 5
    with pytest.raises(RequestError, match="is not a token id"):
        tokenizer.decode_bytes(SMALL_N + len(ADDED))


def test_a_text_is_split_only_where_its_parts_have_its_ids() -> None:
    tokenizer = demo_hf_tokenizer()
    for text in generated_texts(500, 6):
        for place in range(-1, len(text) + 2):
            if tokenizer.splits_at(text, place):
                assert tokenizer.encode(text[:place]) + tokenizer.encode(text[place:]) == tokenizer.encode(text)


@pytest.mark.parametrize("run", [" " * 4_000_000, " \n" * 600_000, "\n" * 1_000_000 + " " * 1_000_000])
def test_whitespace_too_long_for_the_library_has_ids(run: str) -> None:
    """The library's matcher panics on four million spaces before a letter."""
    tokenizer = small_hf_tokenizer()
    ids = tokenizer.encode(f"a{run}a")
    assert tokenizer.decode(ids) == f"a{run}a"
    short = "a" + run[:8] + "a"
    assert tokenizer.encode(short) == Library.from_str(small_content()).encode(short).ids


def test_a_cut_in_whitespace_changes_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in generated_texts(3_000, 7) if any(c.isspace() for c in text)]
    expected = library_ids(library(), texts, with_added=True)
    from qwartet.tokenizer import hf_tokenizer as module

    cut = module.cut_long_whitespace
    monkeypatch.setattr(module, "cut_long_whitespace", lambda text: cut(text, longer_than=1))
    assert [demo_hf_tokenizer().encode(text, allowed_special="all") for text in texts] == expected


def test_a_pickled_tokenizer_encodes_as_before() -> None:
    tokenizer = hf_tokenizer(small_content(), "{{ messages[0].content }}")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("abcd 你<|im_end|>") == tokenizer.encode("abcd 你<|im_end|>")
    assert copy.has_ids_of(tokenizer) and copy.jinja_template == tokenizer.jinja_template


def test_tokenizers_with_other_tokens_do_not_have_the_same_ids() -> None:
    content = json.loads(small_content())
    content["added_tokens"][-1]["content"] = "</thought>"
    other = hf_tokenizer(json.dumps(content))
    assert not small_hf_tokenizer().has_ids_of(other) and not small_hf_tokenizer().has_ids_of(published_tokenizer())


def test_the_ids_that_end_an_answer_come_from_the_files() -> None:
    tokenizer = small_hf_tokenizer()
    assert set(tokenizer.turn_ids) == {tokenizer.im_end_id, tokenizer.im_start_id}
    assert tokenizer.eod_id == tokenizer.special_tokens["<|endoftext|>"]
    content = json.loads(small_content())
    for place, name in enumerate(("<s>", "<turn>", "</turn>")):
        content["added_tokens"][place]["content"] = name
    vocabulary = HfVocabulary.from_json(content, "tokenizer.json")
    other = HfTokenizer(vocabulary, NamedTokens(eos="</turn>"))
    assert other.turn_ids == (SMALL_N + 2,) and other.eod_id == SMALL_N + 2
    with pytest.raises(VocabularyError, match=r"has no token <\|im_end\|>"):
        _ = other.im_end_id


def test_a_grammar_sees_the_same_tokens() -> None:
    from qwartet.engine.constrain import ConstraintCompiler
    from qwartet.engine.structure import Structure

    tokenizer = small_hf_tokenizer()
    compiler = ConstraintCompiler(tokenizer, tokenizer.num_tokens + 3, [tokenizer.im_end_id])
    constraint = compiler.compile(Structure(regex="ab<think>(cd)?"))
    for token_id in tokenizer.encode("ab<think>"):
        assert constraint.mask()[token_id]
        constraint.accept(token_id)
    mask = constraint.mask()
    assert mask[tokenizer.im_end_id] and mask[tokenizer.encode("cd")[0]]
    assert not mask[tokenizer.special_tokens["<think>"]]
