"""Errors and warnings under QWARTET_LANG=zh: real command lines, and what rooms raise that is hard to bring about."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwartet.bench.contexts import read_conversations
from qwartet.checkpoint.safetensors_file import read_tensor_infos
from qwartet.cli.language.catalogue import chinese
from qwartet.client.address import parse_address
from qwartet.client.refusal import failure_line, refusal
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.memory_errors import in_our_words
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import QwartetError
from qwartet.files import decode_text
from qwartet.hub.answers import TryAgain
from qwartet.hub.download_errors import explain
from qwartet.hub.fetch import GivenUp
from qwartet.hub.hubs import HUBS
from qwartet.models import residency
from qwartet.models.generation_config import parse_generation_config
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize.calibration import read_calibration
from qwartet.server.listener import bind
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.cli.command_line import CommandLine, Outcome
from tests.cli.test_bad_input import DAMAGES, edit_json
from tests.client.scripted_server import ScriptedServer, whole
from tests.hub.test_pull import HF
from tests.hub.test_unreachable import UNREACHABLE
from tests.language_gaps import english_in
from tests.tiny_checkpoint import write_tiny_checkpoint

# Names of keys, roles and fields, values of settings, and what HTTP calls a status: the same in both languages.
NAMES = frozenset(
    """
    adapter chatml ftp sym system user assistant logprobs priority stop structure temperature Internal Server Error
    """.split()  # noqa: SIM905
)


def assert_chinese(text: str) -> None:
    """Chinese, and no English but names."""
    assert any("\u4e00" <= sign <= "\u9fff" for sign in text), text
    assert [word for word in english_in(text) if word not in NAMES] == [], text


def in_both(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, *arguments: object) -> Outcome:
    """The outcome in Chinese, which has the exit code and as many lines as the one in English."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        english = qwartet(*arguments, "--lang", "en")
        monkeypatch.setenv("QWARTET_LANG", "zh")
        outcome = qwartet(*arguments)
    assert english.code != 0 and (outcome.code, outcome.out) == (english.code, english.out)
    assert outcome.err.count("\n") == english.err.count("\n")
    for line in outcome.err.splitlines():
        assert line.startswith(("错误：", "警告：")), line
        assert_chinese(line)
    return outcome


# Command lines


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(
    monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path, damage: str
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model", sharded=True)
    DAMAGES[damage][0](directory)
    assert str(directory) in in_both(monkeypatch, qwartet, "chat", directory, "hello").err


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=-1", "--top-p=2", "--max-tokens=0", "--seed=-1", "--max-model-len=1M", "--device=tpu",
        "--device=cuda:99", "--revision=main", "--threads=1000", "--checkpoint-format=gptq",
    ],
)  # fmt: skip
def test_a_setting_out_of_bounds(
    monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, chat_model: Path, option: str
) -> None:
    in_both(monkeypatch, qwartet, "chat", chat_model, "hello", option)


def test_a_path_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny-chat")
    outcome = in_both(monkeypatch, qwartet, "chat", tmp_path / "tiny-chta", "hello")
    assert f"没有这个目录；是否想输入 {tmp_path / 'tiny-chat'}？" in outcome.err
    in_both(monkeypatch, qwartet, "chat", tmp_path / "tiny-chat" / "config.json", "hello")


def test_a_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    in_both(monkeypatch, qwartet, "chat", "Somebody/Nothing", "hello")
    in_both(monkeypatch, qwartet, "show", "Somebody/Nothing")
    in_both(monkeypatch, qwartet, "verify", "Somebody/Nothing")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, chat_model: Path) -> None:
    monkeypatch.setattr(residency, "available_bytes", lambda device: 1000)
    outcome = in_both(monkeypatch, qwartet, "chat", chat_model, "hello", "--dtype", "fp32")
    assert "权重需要" in outcome.err and "用 --force 强制加载" in outcome.err


def test_a_base_model_does_not_chat(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, base_model: Path) -> None:
    assert "基座模型" in in_both(monkeypatch, qwartet, "chat", base_model, "hello").err


def test_a_model_that_does_not_say_whether_it_chats(
    monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    (directory / "generation_config.json").unlink()
    in_both(monkeypatch, qwartet, "chat", directory, "hello")


@pytest.mark.parametrize("key", ["visual", "audio"])
def test_a_model_of_another_kind(
    monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path, key: str
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    edit_json(directory / "config.json", **{key: {"width": 8}})
    in_both(monkeypatch, qwartet, "chat", directory, "hello")


def test_an_adapter(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for verb in (("chat", tmp_path, "hello"), ("show", tmp_path), ("plan", tmp_path)):
        in_both(monkeypatch, qwartet, *verb)


def test_pickled_weights(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "pickle" in in_both(monkeypatch, qwartet, "chat", directory, "hello").err


def test_a_prompt_beyond_the_context(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, chat_model: Path) -> None:
    in_both(monkeypatch, qwartet, "chat", chat_model, "the question " * 2000, "--quiet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text\n"),
        ("a.json", "{"),
        ("a.jsonl", '["x"]\n{"foo": 1}\n'),
        ("a.txt", b"\xc4\xe3\xba\xc3"),
        ("b.txt", "too few tokens"),
        ("none.txt", None),
    ],
)
def test_a_calibration_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
    qwartet: CommandLine,
    chat_model: Path,
    tmp_path: Path,
    name: str,
    content: str | bytes | None,
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    in_both(monkeypatch, qwartet, "quantize", chat_model, tmp_path / "new", "--calibration", file)


def test_a_server_that_refuses(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine, scripted: ScriptedServer) -> None:
    scripted.models = [whole("", 401), whole("", 401)]
    in_both(monkeypatch, qwartet, "chat", "--url", scripted.url, "hello")


def test_a_server_that_does_not_run(monkeypatch: pytest.MonkeyPatch, qwartet: CommandLine) -> None:
    in_both(monkeypatch, qwartet, "chat", "--url", "http://127.0.0.1:1", "hello")
    in_both(monkeypatch, qwartet, "chat", "--url", "ftp://x", "hello")


# What the rooms raise


def _header(path: Path, header: Any) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _download_error(error: Exception, **known: Any) -> None:
    raise explain(HF, "main", error, HUBS["hf"].wording(), **known)


def _refused(status: int, reason: str = "") -> Exception:
    error = Exception()
    error.response = SimpleNamespace(status_code=status, reason_phrase=reason)  # type: ignore[attr-defined]
    return error


def _failed(error: Exception, _: Path) -> None:
    _download_error(error, near="did you mean Qwen/Qwen-7B?")


CALLS: dict[str, Callable[[Path], Any]] = {
    "a header that is not JSON": lambda tmp: read_tensor_infos(_header(tmp / "x.safetensors", b"{,}")),
    "a header with a key twice": lambda tmp: read_tensor_infos(_header(tmp / "x.safetensors", b'{"a": 1, "a": 2}')),
    "a header entry": lambda tmp: read_tensor_infos(_header(tmp / "x.safetensors", {"h.0": 1})),
    "an unknown dtype": lambda tmp: read_tensor_infos(_header(tmp / "x.safetensors", {"h.0": {"dtype": "F1"}})),
    "a wrong size": lambda tmp: read_tensor_infos(
        _header(tmp / "x.safetensors", {"h.0": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 4]}})
    ),
    "a web page": lambda tmp: read_tensor_infos(_written(tmp / "x.safetensors", "<html><head>" * 9)),
    "an LFS pointer": lambda tmp: read_tensor_infos(_written(tmp / "x.safetensors", "version https://git-lfs")),
    "an empty vocabulary": lambda tmp: Vocabulary.load(_written(tmp / "q.tiktoken", "")),
    "a vocabulary with a gap": lambda tmp: Vocabulary.load(_written(tmp / "q.tiktoken", "YQ== 0\nYg== 5\n")),
    "a vocabulary with CR": lambda tmp: Vocabulary.load(_written(tmp / "q.tiktoken", "YQ== 0\r\n")),
    "a vocabulary of nonsense": lambda tmp: Vocabulary.load(_written(tmp / "q.tiktoken", "YQ=== 0\n")),
    "text in GB18030": lambda tmp: decode_text("你好".encode("gb18030")),
    "text in UTF-16": lambda tmp: decode_text("hello".encode("utf-16-le")),
    "a role": lambda tmp: read_conversations(
        _written(tmp / "x.jsonl", '{"messages": [{"role": "boss", "content": "x"}]}')
    ),
    "a line that is no conversation": lambda tmp: read_conversations(_written(tmp / "x.jsonl", "{}")),
    "a parquet file": lambda tmp: read_calibration(_written(tmp / "x.parquet", "PAR1")),
    "a URL with a port that is no number": lambda tmp: parse_address("http://a:b"),
    "a URL with a password": lambda tmp: parse_address("http://a:b@c"),
    "an address that is not ours": lambda tmp: bind("192.0.2.1", 80, 1.0),
    "a group size": lambda tmp: GptqConfig(bits=4, group_size=0, desc_act=False, sym=True),
    "a quantization config without keys": lambda tmp: GptqConfig.from_dict({"bits": 4}, tmp / "quantize_config.json"),
    "an unknown engine setting": lambda tmp: EngineConfig.of({"max_num_seq": 1}),
    "an engine setting out of bounds": lambda tmp: EngineConfig(max_num_seqs=0),
    "a sampling setting without an effect here": lambda tmp: SamplingParams().updated({"no_such_thing": 4}),
    "min_tokens beyond max_tokens": lambda tmp: SamplingParams(max_tokens=4, min_tokens=5),
    "a generation config": lambda tmp: parse_generation_config({"top_k": -5}, tmp / "generation_config.json"),
    "ignored keys": lambda tmp: parse_generation_config(
        {"num_beams": 4, "max_time": 3, "foo_bar": 1}, tmp / "generation_config.json"
    ),
    "no memory for a prompt": lambda tmp: _raise(in_our_words(MemoryError(), "queueing a prompt of 9 tokens")),
    "a hub that fails for long": lambda tmp: _download_error(GivenUp("model.safetensors", _refused(503), 6)),
    "a hub that holds a part": lambda tmp: _download_error(
        TryAgain("the hub closed the connection early"), has_partial=True
    ),
    "a hub without the model": lambda tmp: _download_error(_refused(404), near="did you mean Qwen/Qwen-7B?"),
    "a hub that denies access": lambda tmp: _download_error(_refused(403)),
    **{f"a hub that is out of reach: {error}": partial(_failed, error) for error in UNREACHABLE},
    "a full disk": lambda tmp: _download_error(OSError(28, "No space left on device")),
}


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("name", CALLS)
def test_what_a_room_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            CALLS[name](tmp_path)
        except (QwartetError, ValueError) as error:
            said = [str(error)]
        else:
            said = [str(one.message) for one in warned]
    assert said != []
    for text in said:
        assert_chinese(chinese().translate(f"error: {text}"))


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), OSError(113, "No route to host")])
def test_a_connection_that_fails(error: Exception) -> None:
    assert_chinese(chinese().translate(failure_line("http://a:1", error, 60)))


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 429, 500, 503])
def test_a_request_that_a_server_refuses(status: int) -> None:
    headers: Any = {"Retry-After": "3"}
    assert_chinese(chinese().translate(str(refusal("http://a:1", status, headers, b"", ("top_k",)))))
