"""The rotary embedding that a config.json asks for: rope_theta and rope_scaling, or rope_parameters of transformers 5.

Only the plain one and YaRN are supported; another is an error. What is left out is filled in as transformers does it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.layers.rotary import PositionConfig, YarnConfig
from qwartet.models.config import MAX_ROTARY_VALUES, ConfigReader

_ALWAYS = frozenset({"rope_theta", "rope_type", "type", "partial_rotary_factor"})
_OF_YARN = frozenset(
    {
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    }
)
_TRAINED = "original_max_position_embeddings"  # some writers put it beside the object
_FACTOR = "partial_rotary_factor"  # of models that are not Qwen2 or Qwen3; it, too, may be beside the object
_OTHER_MODEL = "use a checkpoint whose heads are rotated as a whole, as in all published ones"
_NO_CHANGE = "remove it to use the model up to max_position_embeddings"


def read_positions(config: ConfigReader, head_dim: int) -> PositionConfig:
    """How positions enter the attention; CheckpointError for a kind that is not supported, and for wrong values."""
    reader = _parameters(config)
    theta = _theta(config, reader)
    max_length = config.integer("max_length", default=32_768)
    yarn, train_length = None, max_length
    if _kind(reader) == "yarn":
        train_length = reader.integer(_TRAINED, default=max_length)
        yarn = _yarn(reader)
        max_length = max(max_length, int(train_length * yarn.factor))
    _tell_unknown(reader, is_yarn=yarn is not None)
    if max_length * (head_dim // 2) > MAX_ROTARY_VALUES:
        reason = f"a context of {max_length} tokens needs more than {MAX_ROTARY_VALUES} cosines"
        raise CheckpointError(config.path, reason, hint="lower max_position_embeddings, or factor in rope_scaling")
    return PositionConfig(theta, head_dim, train_length, max_length, False, False, yarn)


def _parameters(config: ConfigReader) -> ConfigReader:
    """Reads the object that describes the embedding; both may be there if they say the same."""
    found = {
        key: config.raw[key] for key in ("rope_scaling", "rope_parameters") if config.raw.get(key) not in (None, {})
    }
    for key, values in found.items():
        if not isinstance(values, Mapping) or any(isinstance(value, Mapping) for value in values.values()):
            raise CheckpointError(config.path, f"{key} is {values!r:.80}; it must be an object of plain values")
    if len(found) == 2 and found["rope_scaling"] != found["rope_parameters"]:
        hint = "remove the one that does not belong to the model"
        raise CheckpointError(config.path, "rope_scaling and rope_parameters differ", hint=hint)
    key, values = next(iter(found.items()), ("rope_parameters", {}))
    outside = {name: config.raw[name] for name in (_TRAINED, _FACTOR) if config.raw.get(name) is not None}
    given = {name: value for name, value in (dict(values) | outside).items() if value is not None}
    return ConfigReader(given, config.path, {_TRAINED: (2, 2**22)}, {}, _NO_CHANGE, f"{key}.")


def _kind(reader: ConfigReader) -> str:
    named = [reader.raw[key] for key in ("rope_type", "type") if key in reader.raw]
    if len(named) == 2 and named[0] != named[1]:
        both = f"{reader.prefix}rope_type is {named[0]!r:.40} and {reader.prefix}type is {named[1]!r:.40}"
        raise CheckpointError(reader.path, both, hint="remove the wrong one")
    kind = named[0] if named else "default"
    if kind not in ("default", "yarn"):
        unknown = f"{reader.prefix}rope_type is {kind!r:.40}; only 'default' and 'yarn' are supported"
        raise CheckpointError(reader.path, unknown, hint=_NO_CHANGE)
    if reader.number(_FACTOR, 1.0) != 1.0:
        raise CheckpointError(reader.path, f"{reader.prefix}{_FACTOR} must be 1", hint=_OTHER_MODEL)
    return str(kind)


def _theta(config: ConfigReader, reader: ConfigReader) -> float:
    theta = reader.number("rope_theta", config.number("rope_theta", 10_000.0))
    if theta <= 1:
        raise CheckpointError(config.path, f"rope_theta is {theta:g}; it must be above 1")
    if "rope_theta" in config.raw and config.number("rope_theta", theta) != theta:
        message = f"{reader.prefix}rope_theta {theta:g} and rope_theta {config.raw['rope_theta']} differ"
        warnings.warn(f"{config.path}: {message}; the first is used, as in transformers", CheckpointWarning, 2)
    return theta


def _yarn(reader: ConfigReader) -> YarnConfig:
    if "factor" not in reader.raw:
        raise CheckpointError(reader.path, f"key '{reader.prefix}factor' is missing", hint=_NO_CHANGE)
    factor = reader.number("factor", 1.0)
    fast, slow = reader.number("beta_fast", 32.0), reader.number("beta_slow", 1.0)
    if factor < 1 or fast < slow:
        reason = f"YaRN's factor is {factor:g}, beta_fast {fast:g} and beta_slow {slow:g}"
        raise CheckpointError(reader.path, f"{reason}; factor must be at least 1, and beta_fast at least beta_slow")
    scales = [reader.number(key, 1.0) for key in ("mscale", "mscale_all_dim") if reader.raw.get(key, 0) != 0]
    both = len(scales) == 2
    implied = _magnitude(factor, scales[0]) / _magnitude(factor, scales[1]) if both else _magnitude(factor, 1.0)
    attention_factor = reader.number("attention_factor", implied)
    return YarnConfig(factor, attention_factor, fast, slow, reader.flag("truncate", True))


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _tell_unknown(reader: ConfigReader, *, is_yarn: bool) -> None:
    known = _ALWAYS | _OF_YARN if is_yarn else _ALWAYS | {_TRAINED}
    if unknown := sorted(map(str, reader.raw.keys() - known)):
        message = f"{reader.path}: keys of {reader.prefix[:-1]} ignored, as in transformers: {', '.join(unknown)[:200]}"
        warnings.warn(message, CheckpointWarning, stacklevel=2)
