"""Ways to damage a checkpoint directory, drawn from a random generator.

Each says whether its damage may change values that a file is free to hold (a bit of tensor data, a rope base): then a
clean load is enough. All others must give the original logits or be refused.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Keys whose other values are as lawful as the written ones.
FREE_KEYS = {"layer_norm_epsilon", "rotary_emb_base", "rope_theta", "rotary_pct", "seq_length", "use_dynamic_ntk"}
ADDED_KEYS = (
    "n_embd",
    "n_layer",
    "n_head",
    "rope_theta",
    "padded_vocab_size",
    "format",
    "checkpoint_format",
    "dynamic",
)
STRANGE_NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    4,
    8,
    127,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    2**64,
    -(2**63),
    10**30,
)
DTYPES = ("BOOL", "U8", "I8", "F8_E4M3", "I16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64", "F4", "", "\0")

Mutation = Callable[[random.Random, Path], bool]
"""Damages a directory; returns whether the logits must stay as they were where it still loads."""


def strange_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, with a liking for the borders of integer types."""
    kind = rng.randrange(9 if depth < 2 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice(STRANGE_NUMBERS)
    if kind == 2:
        return rng.choice([rng.random() * 10 ** rng.randrange(-40, 40), float("nan"), float("inf"), -0.0])
    if kind == 3:
        return rng.randrange(-1000, 100_000)
    if kind == 4:
        return rng.choice(["", "auto", "true", "\0", "\ud800", "../x", "/etc/passwd", "x" * 10_000, "你好"])
    if kind == 5:
        return "".join(map(chr, (rng.randrange(1, 0x500) for _ in range(rng.randrange(8)))))
    if kind == 6:
        return [strange_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {str(rng.randrange(9)): strange_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return json.loads("[" * 50 + "]" * 50)


def weight_file(rng: random.Random, directory: Path) -> Path:
    return rng.choice(sorted(directory.glob("*.safetensors")))


def header_length(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


def flip_bits(rng: random.Random, path: Path, start: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        content[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_header_bits(rng: random.Random, directory: Path) -> bool:
    path = weight_file(rng, directory)
    flip_bits(rng, path, 8, 8 + header_length(path))
    return True


def flip_length_bits(rng: random.Random, directory: Path) -> bool:
    flip_bits(rng, weight_file(rng, directory), 0, 8)
    return True


def lie_about_the_length(rng: random.Random, directory: Path) -> bool:
    path = weight_file(rng, directory)
    length = rng.choice([rng.randrange(2**64), rng.randrange(2 * header_length(path)), path.stat().st_size - 8])
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    return True


def flip_data_bits(rng: random.Random, directory: Path) -> bool:
    path = weight_file(rng, directory)
    flip_bits(rng, path, 8 + header_length(path), path.stat().st_size)
    return False


def truncate(rng: random.Random, directory: Path) -> bool:
    path = rng.choice(sorted(path for path in directory.iterdir() if path.is_file()))
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([0, 7, 8, 9, len(content) - 1, rng.randrange(len(content))])])
    return True


def append(rng: random.Random, directory: Path) -> bool:
    path = rng.choice(sorted(path for path in directory.iterdir() if path.is_file()))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 8, 1000])))
    return True


def replace_file(rng: random.Random, directory: Path) -> bool:
    path = rng.choice(sorted(path for path in directory.iterdir() if path.is_file()))
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        path.write_bytes(rng.randbytes(rng.randrange(2000)))
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.write_bytes(
            rng.choice([b"PK\x03\x04" * 99, b"<html>", b"{}", b"[]", b"null", b"[" * 99_999, b'{"a":' * 99_999])
        )
    return True


def edit_header(rng: random.Random, directory: Path) -> bool:
    """A header that is sound JSON and lies about its tensors."""
    path = weight_file(rng, directory)
    length, content = header_length(path), path.read_bytes()
    header = json.loads(content[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    keeps = True
    kind = rng.randrange(8)
    if kind == 0:
        header[name]["dtype"] = rng.choice(DTYPES)
        keeps = False  # BF16 read as F16 is another lawful tensor
    elif kind == 1:
        header[name]["shape"] = [
            rng.choice([*STRANGE_NUMBERS, *header[name]["shape"]]) for _ in range(rng.randrange(4))
        ]
    elif kind == 2:
        header[name]["data_offsets"] = [rng.choice(STRANGE_NUMBERS), rng.choice([*STRANGE_NUMBERS, len(content)])]
    elif kind == 3:
        header[name][rng.choice(["dtype", "shape", "data_offsets", "extra"])] = strange_value(rng)
    elif kind == 4:
        header[strange_key(rng)] = header.pop(name)
    elif kind == 5:
        del header[name]
    elif kind == 6:  # two tensors change places: the same values under other names
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
        keeps = False
    else:
        header["__metadata__"] = strange_value(rng)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return keeps


def strange_key(rng: random.Random) -> str:
    return rng.choice(
        ["", "\0", "x" * 5000, "../../x", "\ud800", "\x1b[2J", "transformer.h.7.ln_1.weight", "lm_head.bias"]
    )


def edit_json(rng: random.Random, directory: Path) -> bool:
    """Keys of a JSON file removed, changed, added."""
    path = rng.choice(sorted(directory.glob("*.json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    target = content
    if rng.random() < 0.5 and isinstance(content.get("quantization_config"), dict):
        target = content["quantization_config"]
    changed = set()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        key = rng.choice([*target, *ADDED_KEYS])
        changed.add(key)
        if rng.random() < 0.2:
            target.pop(key, None)
        else:
            target[key] = strange_value(rng)
    path.write_text(json.dumps(content), encoding="utf-8")
    # An asymmetric file whose format is stated holds whatever its zeros say.
    return not changed & FREE_KEYS and "sym" not in changed


def nudge_number(rng: random.Random, directory: Path) -> bool:
    """A number of config.json becomes another that looks as sound."""
    path = directory / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    key = rng.choice([key for key, value in content.items() if isinstance(value, int) and not isinstance(value, bool)])
    content[key] = rng.choice([content[key] * 2, content[key] // 2, content[key] + 1, content[key] - 1, -content[key]])
    path.write_text(json.dumps(content), encoding="utf-8")
    return key not in FREE_KEYS


def edit_index(rng: random.Random, directory: Path) -> bool:
    path = directory / "model.safetensors.index.json"
    files = [file.name for file in directory.glob("*.safetensors")]
    content = {"metadata": {}, "weight_map": {"transformer.wte.weight": files[0]}}
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
    name = rng.choice(list(content["weight_map"]))
    kind = rng.randrange(5)
    if kind == 0:
        content["weight_map"][name] = rng.choice(
            [*files, "../x.safetensors", "/x", "", "\0", "config.json", "y.safetensors"]
        )
    elif kind == 1:
        content["weight_map"][name] = strange_value(rng)
    elif kind == 2:
        del content["weight_map"][name]
    elif kind == 3:
        content["weight_map"][strange_key(rng)] = rng.choice(files)
    else:
        content[rng.choice(["weight_map", "metadata"])] = strange_value(rng)
    path.write_text(json.dumps(content), encoding="utf-8")
    return True


def swap_weight_files(rng: random.Random, directory: Path) -> bool:
    files = sorted(directory.glob("*.safetensors"))
    if len(files) == 2 and rng.random() < 0.5:
        first, second = (file.read_bytes() for file in files)
        files[0].write_bytes(second)
        files[1].write_bytes(first)
    else:
        shutil.copy(
            rng.choice(files), directory / rng.choice(["model.safetensors", "extra.safetensors", files[-1].name + "x"])
        )
    return True


def edit_vocabulary(rng: random.Random, directory: Path) -> bool:
    path = directory / "qwen.tiktoken"
    lines = path.read_bytes().splitlines(keepends=True)
    place = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        flip_bits(rng, path, 0, path.stat().st_size)
        return True
    if kind == 1:
        del lines[place]
    elif kind == 2:
        lines.insert(place, rng.choice(lines))
    elif kind == 3:
        lines[place] = lines[place].replace(b"\n", rng.choice([b"\r\n", b"", b"\n\n", b" \n", b"0\n", b"\xff\n"]))
    elif kind == 4:
        lines[place] = lines[place].split()[0] + b" %d\n" % rng.choice(STRANGE_NUMBERS)
    else:
        rng.shuffle(lines)
    path.write_bytes(b"".join(lines))
    return True


MUTATIONS: tuple[Mutation, ...] = (
    flip_header_bits,
    flip_length_bits,
    lie_about_the_length,
    flip_data_bits,
    truncate,
    append,
    replace_file,
    edit_header,
    edit_json,
    edit_json,
    nudge_number,
    edit_index,
    swap_weight_files,
    edit_vocabulary,
)


def damage(directory: Path, seed: int) -> tuple[str, bool]:
    """Applies one mutation, sometimes two; returns their names and whether the logits must stay as they were."""
    rng = random.Random(seed)
    chosen = rng.sample(MUTATIONS, rng.choice([1, 1, 1, 2]))
    keeps = True
    for mutation in chosen:
        try:
            keeps &= mutation(rng, directory)
        except (OSError, ValueError, IndexError, KeyError, RecursionError):
            continue  # the first damage left nothing for the second to work on
    return "+".join(mutation.__name__ for mutation in chosen), keeps
