"""GenerationConfig: generation settings as attributes, as transformers 4.37 has them, checked where they are used.

A setting is supported, has no effect on the ids, or is rejected unless it has its neutral value; where the original
raises a ValueError, this is a SettingError, which is one.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, SettingError
from qwartet.hub.location import StrPath, locate

CONFIG_FILE = "generation_config.json"

# Checked and applied by the engine; None leaves them out.
ENGINE_SETTINGS = ("min_p", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
_HONOURED: dict[str, Any] = {
    "max_length": 20, "max_new_tokens": None, "min_length": 0, "min_new_tokens": None, "do_sample": False,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "num_return_sequences": 1,
    "eos_token_id": None, "pad_token_id": None, "chat_format": None, "max_window_size": 6144, "stop_words_ids": None,
    "return_dict_in_generate": False, **dict.fromkeys(ENGINE_SETTINGS),
}  # fmt: skip
# Settings of beam search, the cache and assisted decoding that do not change the ids.
_WITHOUT_EFFECT: dict[str, Any] = {
    "use_cache": True, "early_stopping": False, "length_penalty": 1.0, "low_memory": None, "renormalize_logits": False,
    "remove_invalid_values": False, "bos_token_id": None, "decoder_start_token_id": None, "num_assistant_tokens": 5,
    "num_assistant_tokens_schedule": "heuristic", "prompt_lookup_num_tokens": None, "cache_implementation": None,
    "transformers_version": None,
}  # fmt: skip
# Settings that would change the ids or the results, with their neutral values, the default first.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "diversity_penalty": (0.0,), "penalty_alpha": (None, 0.0),
    "typical_p": (1.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "guidance_scale": (None, 1.0),
    "encoder_repetition_penalty": (1.0,), "encoder_no_repeat_ngram_size": (0,), "force_words_ids": (None,),
    "constraints": (None,), "forced_bos_token_id": (None,), "forced_eos_token_id": (None,),
    "forced_decoder_ids": (None,), "exponential_decay_length_penalty": (None,), "sequence_bias": (None,),
    "stop_strings": (None,), "watermarking_config": (None,), "max_time": (None,), "output_scores": (False,),
    "output_attentions": (False,), "output_hidden_states": (False,),
}  # fmt: skip
_DEFAULTS = {**_HONOURED, **_WITHOUT_EFFECT, **{name: values[0] for name, values in _NEUTRAL.items()}}
# Arguments of generate() and of from_pretrained that are not settings.
_IGNORED = {"token_type_ids", "trust_remote_code", "synced_gpus"}
_HINTS = {
    "prefix_allowed_tokens_fn": "use logits_processor=",
    "assistant_model": "use LLM(draft_model=...)",
    "seed": "call set_seed, or torch.manual_seed",
    "inputs_embeds": "pass input_ids",
    "past_key_values": "pass all ids; the cache recognises a known prefix",
    "position_ids": "leave it out; positions follow from the ids, as published",
}


class GenerationConfig:
    """Generation settings as attributes that may be changed, e.g. `model.generation_config.do_sample = False`."""

    def __init__(self, **settings: Any) -> None:
        """SettingError for a setting that does not exist."""
        _check_names(settings, "GenerationConfig")
        self.__dict__.update(copy.deepcopy(_DEFAULTS))
        self.__dict__.update({name: value for name, value in settings.items() if name not in _IGNORED})

    if TYPE_CHECKING:  # any name: a checkpoint's file may hold more than _DEFAULTS

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @classmethod
    def from_pretrained(cls, name_or_path: StrPath, **changes: Any) -> GenerationConfig:
        """Settings of a model directory or hub id, with changes; takes the original's arguments for its location.

        Raises CheckpointError if the directory holds no generation_config.json, SettingError for an unknown
        setting, ModelNotFoundError.
        """
        directory = locate(name_or_path, changes)
        path = directory / CONFIG_FILE
        if not has_file(path):
            raise CheckpointError(path, "file is missing", hint="fetch it, or use GenerationConfig(top_p=...)")
        config = cls._of_file(path)
        config.update(**changes)
        return config

    @classmethod
    def of_checkpoint(cls, directory: Path, config: Mapping[str, Any]) -> GenerationConfig:
        """Settings of a checkpoint; without a generation_config.json those that its config.json holds, as published."""
        path = directory / CONFIG_FILE
        if has_file(path):
            return cls._of_file(path)
        return cls(**{name: config[name] for name in _HONOURED if name in config})

    @classmethod
    def of(cls, given: Any) -> GenerationConfig:
        """Settings given as ours, as transformers' object of this name, or as a mapping."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping) and hasattr(given, "to_dict"):
            given = {name: value for name, value in given.to_dict().items() if name in _DEFAULTS}
        if not isinstance(given, Mapping):
            raise SettingError(f"generation_config is {given!r:.40}; pass a GenerationConfig")
        return cls(**given)

    @classmethod
    def _of_file(cls, path: Path) -> GenerationConfig:
        """Unknown names are kept, as published, and have no effect."""
        config = cls()
        content = {name: value for name, value in read_json(path).items() if not hasattr(cls, name)}
        config.__dict__.update(content)
        config.__dict__["_of_the_file"] = content.keys() - _DEFAULTS.keys()
        return config

    def update(self, **changes: Any) -> dict[str, Any]:
        """Changes settings; returns the unused ones, of which there are none. SettingError for an unknown one."""
        _check_names(changes, "GenerationConfig")
        self.__dict__.update({name: value for name, value in changes.items() if name not in _IGNORED})
        return {}

    def to_dict(self) -> dict[str, Any]:
        """A copy of all settings."""
        return {name: copy.deepcopy(value) for name, value in self.__dict__.items() if not name.startswith("_")}

    def save_pretrained(self, save_directory: StrPath) -> None:
        """Writes generation_config.json, with what differs from the defaults; creates the directory if necessary."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        changed = {name: value for name, value in self.to_dict().items() if value != _DEFAULTS.get(name)}
        (directory / CONFIG_FILE).write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def changed(self, changes: Mapping[str, Any]) -> GenerationConfig:
        """A copy with changes, checked; SettingError for an unknown or unsupported setting."""
        _check_names(changes, "generate()")
        config = copy.copy(self)
        config.update(**changes)
        if config.max_window_size is None:  # as published: the argument is considered before the setting
            config.max_window_size = self.max_window_size
        config._check()
        if changes.get("max_length") is not None and config.max_new_tokens is not None:
            message = f"max_length={config.max_length} has no effect: max_new_tokens is {config.max_new_tokens}"
            warnings.warn(f"{message}; pass max_new_tokens, or max_new_tokens=None", stacklevel=4)
        return config

    def _check(self) -> None:
        known = {*_DEFAULTS, "_of_the_file", *self.__dict__.get("_of_the_file", ())}
        _check_names({name: value for name, value in self.__dict__.items() if name not in known}, "GenerationConfig")
        for name, neutral in _NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in (*neutral, [], (), {}):
                raise SettingError(f"{name}={value!r:.60} is not supported; only {neutral[0]!r} is", param=name)
        for name in ("do_sample", "return_dict_in_generate"):
            self._demand(name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("max_new_tokens", "max_length", "num_return_sequences"):
            value = getattr(self, name)
            is_optional = value is None and name == ("max_new_tokens" if self.max_new_tokens is None else "max_length")
            self._demand(name, is_optional or (_is_whole(value) and value > 0), "an integer greater than 0")
        for name in ("min_new_tokens", "min_length", "max_window_size"):
            value = getattr(self, name)
            is_optional = value is None and name != "max_window_size"
            self._demand(name, is_optional or (_is_whole(value) and value >= 0), "a non-negative integer")
        for name in ("eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, list | tuple) and name == "eos_token_id" else [value]
            self._demand(name, value is None or all(map(_is_whole, ids)), "a token id")
        self._check_probabilities()

    def _check_probabilities(self) -> None:
        """What the original's logits processors and warpers require, the latter only when sampling."""
        penalty, temperature, top_k, top_p = self.repetition_penalty, self.temperature, self.top_k, self.top_p
        positive = "a strictly positive float"
        self._demand("repetition_penalty", penalty is None or (_is_number(penalty) and penalty > 0), positive)
        if not self.do_sample:
            return
        is_good = temperature is None or (_is_number(temperature) and temperature > 0)
        self._demand("temperature", is_good, f"{positive}; for greedy decoding set do_sample=False")
        is_good = top_k is None or (_is_whole(top_k) and top_k >= 0)
        self._demand("top_k", is_good, "a strictly positive integer, or 0 to keep all")
        self._demand("top_p", top_p is None or (_is_number(top_p) and 0 <= top_p <= 1), "a float > 0 and < 1, or 1")

    def _demand(self, name: str, is_good: bool, words: str) -> None:
        if not is_good:
            raise SettingError(f"`{name}` has to be {words}, but is {getattr(self, name)!r:.60}", param=name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it may be changed

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"


def _check_names(settings: Mapping[str, Any], of: str) -> None:
    for name, value in settings.items():
        if name in _DEFAULTS or name in _IGNORED or (name in _HINTS and value is None):
            continue
        near = difflib.get_close_matches(name, _HONOURED, n=1)
        hint = f"did you mean {near[0]}?" if near else _HINTS.get(name, f"supported settings: {', '.join(_HONOURED)}")
        raise SettingError(f"{of} has no setting {name!r}; {hint}", param=name)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
