"""Which tokens may follow, where a completion must have a given structure? Over the library llguidance.

A structure becomes a grammar, the grammar and the vocabulary become a matcher, and before every token the matcher says
which ids can still lead to a complete text. It sees tokens as bytes: a character may be spread over several.
Any split into tokens is allowed. `engine/grammar.py` writes the grammars.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from qwartet.engine.grammar import write_grammar
from qwartet.engine.structure import Structure
from qwartet.errors import SettingError, StructureError
from qwartet.tokenizer.tokenizer import Tokenizer

# llguidance's own limits (1 s of work to compile, 15 ms for a step), except for the states: they take 1 KB each.
LIMITS = LLParserLimits(max_lexer_states=100_000, verbose_errors=False)

STACK_BYTES = 16 << 20  # for compiling; structure_limits.py keeps a schema to a third of it, later steps take little
HEADROOM_BYTES = 256 << 20  # for compiling: native code ends the process when an allocation fails
MAX_REASON_LETTERS = 400

T = TypeVar("T")

_PLAIN_WORDS = (
    (r"\ANoExtension.*", "no text can satisfy it"),
    (r"\AUnsatisfiable schema: ", "no text can satisfy it: "),
    (r"\Ainvalid regex \".*\" \(in regex\): ", ""),
    (r"Unimplemented keys: (.*)", r"keywords that are not supported: \1; leave them out"),
    (r"\AResource ('.*?') is not present.*", r"unknown $schema \1; leave it out, nothing is fetched"),
    (r" are not supported\. Enable 'coerce_one_of'.*", " are supported only if no two can hold at once; use anyOf"),
    (r"\Aschema too large.*", "too many combinations; use fewer alternatives inside allOf"),
    (r"\AUnable to determine if regex is empty.*", "too many conditions on one string; use fewer patterns or lengths"),
    (r"\Afailed to parse \"%json\": (.*) at line .*", r"the schema is not understood (\1); write it more simply"),
    (r"\A(lexer [^;\n]*|fuel exhausted[^;\n]*|panic: .*).*", r"too complex (\1); use a simpler one"),
    (r"lookarounds not supported yet; \w+", "word and line boundaries are not supported; leave them out"),
    (r"; consider making your grammar.*", "; use a schema with fewer alternatives and optional properties"),
)

_CHANGE_IT = "change this part of it"
_stack_size_lock = threading.Lock()


@dataclass(frozen=True)
class TokenKinds:
    """What the ids of a vocabulary mean to a constraint."""

    is_text: NDArray[np.bool_]  # [vocab_size] text and tags such as <think>: no special token, no padding
    stop_token_ids: frozenset[int]  # a stop token is never text, whatever its bytes are
    end_id: int  # what llguidance takes as the end, whatever the stop tokens are

    def is_text_id(self, token_id: int) -> bool:
        return 0 <= token_id < len(self.is_text) and bool(self.is_text[token_id]) and not self.is_stop_id(token_id)

    def is_stop_id(self, token_id: int) -> bool:
        return token_id in self.stop_token_ids


class ConstraintCompiler:
    """Compiles constraints for one vocabulary; any number of threads may call it at once."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token_ids: Collection[int] = ()) -> None:
        """`vocab_size` as in rows of logits; SettingError where it is too small for the tokenizer.

        `stop_token_ids`: the default of requests that set none; ids beyond the vocabulary are ignored.
        """
        if vocab_size < tokenizer.num_tokens:
            raise SettingError(f"vocab_size is {vocab_size}, but the tokenizer has {tokenizer.num_tokens} tokens")
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_token_ids = stop_token_ids
        special = tokenizer.special_tokens.items()
        self._tag_ids = {tag: token_id for tag, token_id in special if not tokenizer.is_special(token_id)}
        self._lock = threading.Lock()
        self._built: tuple[LLTokenizer, NDArray[np.bool_]] | None = None

    def compile(self, structure: Structure, stop_token_ids: Collection[int] | None = None) -> Constraint:
        """The state before the first token; StructureError says what is wrong, and its `param` whether the fault is in
        "tool_calls" or in the "structure" of an answer. `stop_token_ids` None: the compiler's.

        MemoryError where the process can allocate less than HEADROOM_BYTES more.

        Takes milliseconds, at worst about a second and 200 MB, so keep it off the engine's thread. The first call also
        builds the vocabulary's tree, which takes most of a second for the published one.
        """
        calls = structure.tool_calls
        try:
            return self._compile(structure, stop_token_ids)
        except StructureError as error:
            if calls is not None and (calls.answer is None or self._is_sound(calls.answer)):
                error.param = "tool_calls"
            raise

    def _is_sound(self, structure: Structure) -> bool:
        try:
            return self._compile(structure, None) is not None
        except StructureError:
            return False

    def _compile(self, structure: Structure, stop_token_ids: Collection[int] | None) -> Constraint:
        grammar = write_grammar(structure, self._tag_ids)
        np.empty(HEADROOM_BYTES, dtype=np.uint8)  # MemoryError where the process's limits leave less
        ll_tokenizer, is_text = self._build()
        stops = self._stop_token_ids if stop_token_ids is None else stop_token_ids
        known_stops = frozenset(token_id for token_id in stops if 0 <= token_id < self._vocab_size)
        kinds = TokenKinds(is_text, known_stops, self._tokenizer.eod_id)

        def build() -> Constraint:
            constraint = Constraint(LLMatcher(ll_tokenizer, grammar, log_level=0, limits=LIMITS), kinds)
            num_allowed = int(constraint.mask().sum())  # raises errors; most structures that are too complex fail here
            if constraint.is_complete and num_allowed == len(known_stops):
                raise StructureError("only the empty text has this structure; use one that allows more")
            return constraint

        return _with_deep_stack(build)

    def _build(self) -> tuple[LLTokenizer, NDArray[np.bool_]]:
        with self._lock:
            if self._built is None:
                is_text = np.zeros(self._vocab_size, dtype=np.bool_)
                is_text[[*self._tokenizer.text_ids, *self._tag_ids.values()]] = True
                self._built = self._tokenizer.grammar_tokenizer(), is_text
            return self._built


class Constraint:
    """The progress of one completion through its structure; not thread-safe."""

    def __init__(self, matcher: LLMatcher, kinds: TokenKinds, has_stopped: bool = False) -> None:
        self._matcher = matcher
        self._kinds = kinds
        self._has_stopped = has_stopped

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is complete: a stop token may follow."""
        return self._has_stopped or self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        """Whether only stop tokens may follow."""
        return self._has_stopped or (self._matcher.is_stopped() and self._matcher.is_accepting())

    def mask(self, num_ids: int | None = None) -> NDArray[np.bool_]:
        """Which of the first `num_ids` ids (None: all rows of the logits) may come next: bool [num_ids].

        All False only where the text is finished and there are no stop tokens. StructureError where nothing may follow
        an incomplete text, or the structure turns out to be too complex: that ends only this request.
        0.05 ms for the published vocabulary, 0.3 ms inside a large character class; 40 ms in the worst case found.
        """
        self._raise_error()
        is_text = self._kinds.is_text
        allowed = np.zeros(len(is_text), dtype=np.bool_)
        if not self.is_finished:
            words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            self._raise_error()  # the mask of a failed matcher is the end token
            bits = np.unpackbits(words, count=min(8 * len(words), len(is_text)), bitorder="little")
            np.logical_and(bits, is_text[: len(bits)], out=allowed[: len(bits)])
        allowed[list(self._kinds.stop_token_ids)] = self.is_complete
        if not (self.is_complete or allowed.any()):
            raise StructureError(f"the output cannot satisfy the structure: no token continues the text; {_CHANGE_IT}")
        return allowed[:num_ids]

    def accept(self, token_id: int) -> None:
        """Advances by the chosen token; StructureError where it may not follow: that ends only this request."""
        if self._kinds.is_stop_id(token_id) and self.is_complete:
            self._has_stopped = True
            return
        can_follow = self._kinds.is_text_id(token_id) and not self.is_finished
        if not can_follow or not self._matcher.consume_token(token_id):
            self._raise_error()
            raise StructureError(f"token {token_id} does not continue the structure; choose one that the mask allows")

    def count_valid(self, token_ids: Sequence[int]) -> int:
        """How many of these ids, from the first on, `accept` would take in sequence; changes nothing."""
        kinds = self._kinds
        texts = list(takewhile(kinds.is_text_id, token_ids))
        num_stops = len(list(takewhile(kinds.is_stop_id, token_ids[len(texts) :])))
        if self.is_finished:
            return 0 if texts else num_stops
        # One end token after the text asks whether it is complete.
        num_valid = self._matcher.validate_tokens([*texts, kinds.end_id] if num_stops else texts)
        return len(texts) + num_stops if num_valid > len(texts) else num_valid

    def fork(self) -> Constraint:
        """An independent copy."""
        return Constraint(self._matcher.deep_copy(), self._kinds, self._has_stopped)

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise StructureError(f"the output cannot satisfy the structure: {_reason(self._matcher)}")


def _reason(matcher: LLMatcher) -> str:
    """llguidance's error in one line, without its listing of the grammar and its hints for programmers."""
    message = re.split(r"\n +\d+ \| |\n<|\n *backtrace", matcher.get_error())[0]
    message = re.sub(r"\A(at \d+\(\d+\): )?(failed to compile JSON schema: )?", "", message)
    for theirs, ours in _PLAIN_WORDS:
        message = re.sub(theirs, ours, message, flags=re.DOTALL)
    text = " ".join(line.strip() for line in message.splitlines() if line.strip(" ^"))
    half = MAX_REASON_LETTERS // 2
    text = text if len(text) <= MAX_REASON_LETTERS else f"{text[:half]} ... {text[-half:]}"
    return text if "; " in text else f"{text}; {_CHANGE_IT}"


def _with_deep_stack(work: Callable[[], T]) -> T:
    """The result of `work`, run in a thread with STACK_BYTES of stack: the caller's own may have far less."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        except BaseException as error:  # a panic in native code is not an Exception
            reason = f"the structure cannot be compiled: {str(error)[:MAX_REASON_LETTERS]}; use a simpler one"
            future.set_exception(StructureError(reason))

    thread = threading.Thread(target=run, name="compile-structure", daemon=True)
    with _stack_size_lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    return future.result()
