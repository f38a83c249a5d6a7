"""The sampling settings that a checkpoint's generation_config.json stands for."""

from __future__ import annotations

from collections.abc import Sequence

from qwartet.engine.sampling_params import SamplingParams
from qwartet.models.generation_config import GenerationDefaults

_SAME_NAMES = (
    "max_length", "min_length", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip


def default_params(defaults: GenerationDefaults, stop_words: Sequence[str]) -> SamplingParams:
    """The settings of requests that set none; `stop_words`: the texts of those stop words that have several ids."""
    return SamplingParams(
        max_tokens=defaults.max_new_tokens,
        min_tokens=defaults.min_new_tokens,
        temperature=defaults.temperature if defaults.do_sample else 0.0,
        stop=(*stop_words, *defaults.stop_strings),
        **{name: getattr(defaults, name) for name in _SAME_NAMES},
    )
