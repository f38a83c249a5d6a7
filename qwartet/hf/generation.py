"""generate() of transformers with the published stop words, over the kernels' own cache.

Every decoding mode of transformers works: greedy, sampling, beam search, assisted decoding, prompt lookup. A stop word
is noticed one step late, as published: once the ids end with it, the next id is forced to be EOS.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from qwartet.engine.stop_words import StopWords
from qwartet.errors import RequestError, SettingError
from qwartet.hf.results import CACHE_NAME

_CACHE_ARGUMENTS = ("past_key_values", "cache", "cache_implementation", "custom_generate")


class QwenGeneration:
    """What the model adds to transformers' GenerationMixin, its next base class."""

    config: Any
    transformer: Any
    generation_config: Any
    is_in_one_piece: Any
    paged_cache: Any

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        *args: Any,
        stop_words_ids: list[list[int]] | None = None,
        **arguments: Any,
    ) -> Any:
        """As in transformers; stop_words_ids, also of the generation config, end a row with EOS.

        A conversation without stop words ends with its turn, at <|im_end|>, which pipelines and servers rely on.
        RequestError for padding on the right; SettingError for stop words without an EOS.
        """
        settings = self.generation_config if generation_config is None else generation_config

        def chosen(name: str) -> Any:
            return arguments.get(name, getattr(settings, name, None))

        words = stop_words_ids if stop_words_ids is not None else getattr(settings, "stop_words_ids", None)
        if words is not None:
            processors = [] if logits_processor is None else list(logits_processor)
            logits_processor = type(logits_processor or [])([*processors, _stop_words(words, chosen("eos_token_id"))])
        prompt = inputs if inputs is not None else arguments.get("input_ids", arguments.get("inputs_embeds"))
        _check_padding(arguments.get("attention_mask"))
        if words is None and "eos_token_id" not in arguments:
            ends = _ends_of_turn(prompt, settings, self.config.vocab_size)
            if ends and generation_config is None:
                arguments["eos_token_id"] = ends
            elif ends:  # transformers takes a config or settings, not both
                generation_config = copy.deepcopy(settings)
                generation_config.eos_token_id = ends
        length = prompt.shape[1] if isinstance(prompt, Tensor) and prompt.dim() > 1 else 0
        self._check_chunks(chosen("prefill_chunk_size"), length)
        uses_cache = chosen("use_cache") is not False
        if uses_cache and self.is_in_one_piece and not any(chosen(name) is not None for name in _CACHE_ARGUMENTS):
            arguments[CACHE_NAME] = self.paged_cache(length + (chosen("max_new_tokens") or 0))
        return super().generate(  # type: ignore[misc]
            inputs, generation_config, logits_processor, *args, **arguments
        )

    def _check_chunks(self, chunk_size: int | None, length: int) -> None:
        position = self.transformer.network_config.position
        if chunk_size is not None and position.alpha_slot(length):
            raise SettingError(
                f"prefill_chunk_size cannot be used for a prompt of {length} tokens, beyond the trained "
                f"{position.train_length}: dynamic NTK needs the whole prompt; leave it out"
            )

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, without position_ids: they follow from the columns."""
        # By the name `kwargs` transformers recognises that everything is passed on to `forward`.
        found: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        found.pop("position_ids", None)
        return found

    @staticmethod
    def create_masks_for_generate(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """The mask as it is, [B, columns]: where transformers would expand it for a cache of fixed size."""
        return attention_mask


def _stop_words(words: Any, eos: Any) -> StopWords:
    first = eos[0] if isinstance(eos, list | tuple) and eos else int(eos) if isinstance(eos, Tensor | int) else None
    if first is None:
        raise SettingError("stop_words_ids end a row with EOS, but eos_token_id is None; set eos_token_id")
    return StopWords(words, int(first))


def _ends_of_turn(prompt: Any, settings: Any, vocab_size: int) -> list[int] | None:
    """EOS, <|im_end|> and <|im_start|> for a prompt in ChatML of a chat model; else None.

    The markers follow <|endoftext|> in every vocabulary of the family.
    """
    eos = getattr(settings, "eos_token_id", None)
    if not isinstance(eos, int) or getattr(settings, "chat_format", None) != "chatml" or eos + 2 >= vocab_size:
        return None
    if not isinstance(prompt, Tensor) or prompt.is_floating_point() or not bool((prompt == eos + 1).any()):
        return None
    return [eos, eos + 2, eos + 1]


def _check_padding(mask: Any) -> None:
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] and not bool(torch.as_tensor(mask)[:, -1].all()):
        raise RequestError("attention_mask has zeros right of ones; pad on the left (padding_side='left')")
