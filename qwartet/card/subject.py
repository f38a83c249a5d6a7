"""What a checkpoint is, as `qwartet inspect` and `qwartet plan` told it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwartet.card.compression import OTHERS
from qwartet.card.file import CardData
from qwartet.card.published import PRECISIONS
from qwartet.card.table import NONE, Language, Table
from qwartet.card.words import word
from qwartet.models.shapes import SHAPES, published_size

GIB = 2**30
_LANGUAGES = {
    "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ar": "Arabic", "he": "Hebrew", "th": "Thai",
    "vi": "Vietnamese", "ru": "Russian", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese",
    "it": "Italian", "nl": "Dutch", "pl": "Polish", "tr": "Turkish", "id": "Indonesian", "code": "Python code",
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """One of a card's models."""

    name: str
    precision: str  # "bf16", "int4", ...
    size: str | None  # "72b" where its shape is a published one
    is_chat: bool
    model: dict[str, Any]  # as in the output of `qwartet inspect`
    quantization: dict[str, Any] | None
    weights_bytes: int

    @property
    def precision_name(self) -> str:
        return PRECISIONS.get(self.precision, self.precision.upper())


def checkpoint(data: CardData, name: str) -> Checkpoint:
    """A model of the card by its name."""
    found = data.output("inspect", name)
    model, quantization = found.get("model") or {}, found.get("quantization")
    precision = model.get("declared_dtype", "bf16") if quantization is None else f"int{quantization['bits']}"
    size = published_size(model.get("hidden_size"), model.get("num_layers"), model.get("family", "qwen"))
    is_chat = (found.get("sampling") or {}).get("chat_format") == "chatml"
    return Checkpoint(name, precision, size, is_chat, model, quantization, (found.get("weights") or {}).get("bytes", 0))


def requirements_table(data: CardData, language: Language) -> Table:
    """The memory that one request of the whole context needs, by `qwartet plan`."""
    kinds = ("bf16", "int8", "int4")
    names = ("model", "weights", "context", *(f"{kind} KV cache" for kind in kinds), "one GPU")
    rows = []
    for name in data.models:
        plan = data.output("plan", name)
        caches = {one["kv_cache_dtype"]: one["total_bytes"] for one in plan.get("kv_caches", ())}
        gpu = next((one["bytes_per_gpu"] for one in plan.get("gpus", ()) if one["gpus"] == 1), None)
        sizes = [gib(caches.get(kind)) for kind in kinds]
        context = f"{plan['context']:,}" if "context" in plan else NONE
        rows.append([name, gib(checkpoint(data, name).weights_bytes), context, *sizes, gib(gpu)])
    return Table([word(name, language) for name in names], rows)


def architecture_table(data: CardData, language: Language) -> Table:
    """The card's table of hyperparameters, and of the published checkpoint where this has its shape."""
    own = checkpoint(data, data.subject)
    inspected = data.output("inspect", own.name)
    values = {
        "parameters": own.model.get("num_parameters"),
        "layers (n_layers)": own.model.get("num_layers"),
        "attention heads (n_heads)": own.model.get("num_heads"),
        "hidden size (d_model)": own.model.get("hidden_size"),
        "vocabulary (vocab size)": (inspected.get("tokenizer") or {}).get("num_tokens"),
        "context in tokens (sequence length)": own.model.get("max_length"),
    }
    shape = next((shape for name, shape in SHAPES.items() if name == own.size), None)
    published: dict[str, int] = {}
    if shape is not None:
        published = {
            "layers (n_layers)": shape.num_layers,
            "attention heads (n_heads)": shape.num_heads,
            "hidden size (d_model)": shape.hidden_size,
            "vocabulary (vocab size)": shape.num_ranks + 208,
            "context in tokens (sequence length)": shape.max_position_embeddings,
        }
    headings = [word(name, language) for name in ("hyperparameter", "value")]
    rows = [[word(name, language), _count(value)] for name, value in values.items()]
    if published:
        headings.append(word("published", language))
        rows = [[*row, _count(published.get(name))] for row, name in zip(rows, values, strict=True)]
    return Table(headings, rows)


def compression_table(data: CardData, language: Language) -> Table:
    """Bytes of text that a token stands for, by language, beside other vocabularies where they were at hand."""
    others = [name for name in OTHERS if all(name in counts for counts in data.compression.values())]
    names = ("language", "bytes", "tokens", "bytes per token", *(f"{name}: bytes per token" for name in others))
    names += tuple(f"tokens against {name}" for name in others)
    rows = []
    for code, counts in data.compression.items():
        size, own = counts["bytes"], counts["this"]
        theirs = [f"{size / counts[name]:.2f}" for name in others]
        ratios = [f"{100 * (own / counts[name] - 1):+.0f} %" for name in others]
        language_name = word(_LANGUAGES.get(code, code), language)
        rows.append([language_name, f"{size:,}", f"{own:,}", f"{size / own:.2f}", *theirs, *ratios])
    return Table([word(name, language) for name in names], rows)


def gib(size: int | None) -> str:
    """A size as people read it."""
    if size is None:
        return NONE
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
