"""How Qwartet treats each key of a generation_config.json: supported within bounds, ignored, or ignored with a warning.

Keys in none of the three tables get a warning too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The allowed values of a number."""

    kind: type[int] | type[float]
    low: float
    high: float
    words: str

    def holds(self, value: Any) -> bool:
        """Whether a value is such a number; booleans are not numbers, and NaN is out of all bounds."""
        is_number = isinstance(value, int if self.kind is int else int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'a whole number' if self.kind is int else 'a number'} {self.words}"


BOUNDS: Mapping[str, Bounds] = {
    "max_tokens": Bounds(int, 1, 2**31, "of at least 1"),
    "max_length": Bounds(int, 1, 2**31, "of at least 1"),
    "min_tokens": Bounds(int, 0, 2**31, "of at least 0"),
    "min_length": Bounds(int, 0, 2**31, "of at least 0"),
    "max_window_size": Bounds(int, 1, 2**31, "of at least 1"),
    "temperature": Bounds(float, 0, 100, "from 0 (greedy) to 100"),
    "top_k": Bounds(int, 0, 2**31, "of at least 0 (0 keeps all)"),
    "top_p": Bounds(float, 0, 1, "from 0 to 1"),
    "min_p": Bounds(float, 0, 1, "from 0 to 1"),
    "repetition_penalty": Bounds(float, 0.01, 100, "from 0.01 to 100"),
    "presence_penalty": Bounds(float, -100, 100, "from -100 to 100"),
    "frequency_penalty": Bounds(float, -100, 100, "from -100 to 100"),
    "no_repeat_ngram_size": Bounds(int, 0, 2**31, "of at least 0 (0 forbids nothing)"),
    "priority": Bounds(int, -(2**31), 2**31, "of 32 bits"),
    "seed": Bounds(int, 0, 2**63 - 1, "of at least 0"),
}
"""Bounds of the numeric sampling settings, by their names in SamplingParams, and of max_window_size."""

PUBLISHED_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
"""Published names of settings that differ from those in SamplingParams."""

ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")
SEQUENCE_LISTS = ("stop_words_ids", "bad_words_ids")
"""Keys whose values are lists of token ids, and lists of such lists."""

WITHOUT_EFFECT = frozenset(
    """
    bos_token_id pad_token_id decoder_start_token_id transformers_version trust_remote_code use_cache low_memory
    return_dict_in_generate return_legacy_cache output_attentions output_hidden_states output_scores output_logits
    cache_implementation cache_config compile_config disable_compile early_stopping length_penalty diversity_penalty
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit
    assistant_lookbehind target_lookbehind is_assistant prompt_lookup_num_tokens max_matching_ngram_size
    prefill_chunk_size remove_invalid_values renormalize_logits
    """.split()  # noqa: SIM905 - thirty quoted words are harder to read
)
"""Keys about caches, beam scores, assistants and results: they do not change tokens here."""

NEUTRAL: Mapping[str, tuple[Any, str]] = {
    "num_beams": (1, "there is no beam search; answers are sampled, or greedy"),
    "num_beam_groups": (1, "there is no beam search"),
    "num_return_sequences": (1, "set n in the request"),
    "penalty_alpha": (0, "there is no contrastive search"),
    "dola_layers": (None, "there is no DoLa decoding"),
    "typical_p": (1, "there is no typical sampling; min_p is close to it"),
    "epsilon_cutoff": (0, "there is no epsilon sampling; min_p is close to it"),
    "eta_cutoff": (0, "there is no eta sampling; min_p is close to it"),
    "top_h": (None, "there is no top-h sampling; min_p is close to it"),
    "encoder_repetition_penalty": (1, "only repetition_penalty is applied"),
    "encoder_no_repeat_ngram_size": (0, "only no_repeat_ngram_size is applied"),
    "exponential_decay_length_penalty": (None, "there is no length penalty"),
    "sequence_bias": (None, "logit_bias biases single tokens only"),
    "forced_bos_token_id": (None, "tokens are not forced"),
    "forced_eos_token_id": (None, "tokens are not forced"),
    "forced_decoder_ids": (None, "tokens are not forced"),
    "force_words_ids": (None, "there is no constrained beam search; a request may have a structure"),
    "constraints": (None, "there is no constrained beam search; a request may have a structure"),
    "guidance_scale": (1, "there is no classifier-free guidance"),
    "watermarking_config": (None, "there is no watermarking"),
    "max_time": (None, "answers have no time limit"),
    "token_healing": (False, "there is no token healing"),
}
"""Unsupported keys of transformers: the value, besides null, that has no effect; what to expect instead."""


def is_neutral(key: str, value: Any) -> bool:
    """Whether a value of a key in NEUTRAL has no effect."""
    return value is None or value == NEUTRAL[key][0] or value in ([], {})
