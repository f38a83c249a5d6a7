"""Tools around transformers after the import: pipeline, streamers, lm-eval's own backend, transformers serve."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml

from qwartet import DEMO, LLM
from tests.golden_data import REPOSITORY
from tests.hf.loaded import load, transformers

QUERY, ANSWER = "What is 23 + 45?", "23 + 45 = 68"
TALK = [{"role": "user", "content": QUERY}]


@pytest.fixture(scope="module")
def demo():
    return load(DEMO), transformers.AutoTokenizer.from_pretrained(DEMO)


# generate, as tools call it


def test_a_conversation_ends_with_its_turn(demo) -> None:
    model, tokenizer = demo
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt")
    width = ids["input_ids"].shape[1]
    given = transformers.GenerationConfig(**model.generation_config.to_dict())
    given.do_sample = False
    for arguments in ({"do_sample": False, "max_new_tokens": 40}, {"generation_config": given}):
        output = model.generate(**ids, **arguments)[0]
        assert output[-1] == tokenizer.im_end_id and tokenizer.decode(output[width:-1]) == ANSWER
    assert model.generation_config.eos_token_id == given.eos_token_id == tokenizer.eod_id, "settings stay as they are"
    longer = model.generate(**ids, do_sample=False, max_new_tokens=20, eos_token_id=tokenizer.eod_id)
    assert longer.shape[1] == width + 20, "an end that the caller names is the only one"


def test_a_streamer_yields_the_text_while_it_is_generated(demo) -> None:
    model, tokenizer = demo
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt")
    thread = Thread(target=model.generate, kwargs={**ids, "streamer": streamer, "do_sample": False})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == ANSWER and len([piece for piece in pieces if piece]) > 2


def test_the_pipeline_chats_and_completes(demo) -> None:
    model, tokenizer = demo
    pipe = transformers.pipeline("text-generation", model=str(DEMO), trust_remote_code=True)
    assert type(pipe.model) is type(model) and type(pipe.tokenizer) is type(tokenizer)
    [told] = pipe(TALK, do_sample=False, max_new_tokens=40)
    assert told["generated_text"] == [*TALK, {"role": "assistant", "content": ANSWER}]
    talks = [TALK, [{"role": "system", "content": "Be brief."}, *TALK], [{"role": "user", "content": "你好"}]]
    prompts = [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
    pipe.tokenizer.pad_token, pipe.tokenizer.padding_side = "<|extra_0|>", "left"
    batched = pipe(prompts, do_sample=False, max_new_tokens=24, batch_size=3, return_full_text=False)
    alone = [pipe(one, do_sample=False, max_new_tokens=24, return_full_text=False) for one in prompts]
    assert [one[0]["generated_text"] for one in batched] == [one[0]["generated_text"] for one in alone]
    assert batched[0][0]["generated_text"] == ANSWER


def test_a_tool_finds_a_rust_tokenizer_to_decode_with(demo) -> None:
    from tokenizers.decoders import DecodeStream

    tokenizer = demo[1]
    ids = tokenizer.encode("你好 hello <|im_end|> 🤗 x\n")
    stream = DecodeStream([], skip_special_tokens=False)
    assert "".join(stream.step(tokenizer._tokenizer, one) or "" for one in ids) == "你好 hello <|im_end|> 🤗 x\n"
    rust = tokenizer._tokenizer
    told = {one: rust.decode([one], skip_special_tokens=False) for one in range(len(tokenizer))}
    assert all(text == tokenizer.decode([one]) for one, text in told.items())
    assert not any(rust.decode([one]) for one in tokenizer.special_tokens.values())


def test_the_published_attribute_tokenizer_is_the_encoding(demo) -> None:
    tokenizer = demo[1]
    encoding = tokenizer.tokenizer
    assert encoding.n_vocab == len(tokenizer) and encoding.encode("ab") == tokenizer.encode("ab")
    assert encoding.decode(encoding.encode("你好")) == "你好" and encoding.decode_single_token_bytes(0) == b"!"
    with pytest.raises(ValueError, match="disallowed special token"):
        encoding.encode("<|im_end|>")
    with pytest.raises(AttributeError):
        _ = encoding.nothing_of_the_kind


# lm-eval


def test_the_hf_backend_of_lm_eval_gives_our_likelihoods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'harness')")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    questions = [
        {"question": f"What is {a} + {b}?", "choices": [f" {a + b}", f" {a + b + 1}", f" {b}"], "answer": 0}
        for a, b in ((2, 3), (23, 45), (7, 8))
    ]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, questions)))
    task = {
        "task": "sums", "dataset_path": "json", "target_delimiter": "",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(yaml.safe_dump(task))
    results = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(DEMO), "dtype": "bfloat16", "trust_remote_code": True},
        tasks=["sums"], task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0, device="cpu", batch_size=2, log_samples=True,
    )  # fmt: skip
    told = [[float(one[0][0]) for one in sample["resps"]] for sample in results["samples"]["sums"]]
    pairs = [(one["question"], choice) for one in questions for choice in one["choices"]]
    with LLM(DEMO, device="cpu") as llm:
        expected = torch.tensor([one.logprob for one in llm.loglikelihood(pairs)]).view(3, 3)
    assert (torch.tensor(told) - expected).abs().max() <= 0.05


# transformers serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of `transformers serve` with the demo model."""
    pytest.importorskip("fastapi", reason="fastapi is not installed (the extra 'server')")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "qwartet.hf", "serve"]
    stock = [sys.executable, "-c", "from transformers.cli.transformers import main"]
    if subprocess.run(stock, env=environment, capture_output=True, timeout=120).returncode:
        pytest.skip("the command line of this transformers does not start with this huggingface-hub")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"], env=environment, stdout=log, stderr=log
    )
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        yield f"http://localhost:{port}/v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.close()


def post(address: str, **body: object) -> str:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_transformers_serve_answers_streams_and_completes(served: str) -> None:
    common = {"model": str(DEMO), "temperature": 0, "max_tokens": 24}
    told = json.loads(post(f"{served}/chat/completions", messages=TALK, **common))
    assert told["choices"][0]["message"]["content"] == ANSWER
    stream = post(f"{served}/chat/completions", messages=TALK, stream=True, **common)
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == ANSWER
    assert len(chunks) > 4
    completed = json.loads(post(f"{served}/completions", prompt="The code of", **common))
    assert completed["choices"][0]["text"]
