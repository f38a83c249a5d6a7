"""lm-eval: tasks over both APIs, log-likelihoods of the prompt included."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp()}
import lm_eval
from lm_eval.tasks import TaskManager
from uses import API_KEY, BASE_URL, MODEL, busy, run, use

os.environ["OPENAI_API_KEY"] = API_KEY
folder = Path(tempfile.mkdtemp())
lines = [{"q": "The capital of France is", "choices": ["Paris", "a spoon"], "gold": 0, "answer": "Paris"}] * 3
(folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
COMMON = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
doc_to_text: "{{{{q}}}}"
"""
(folder / "choice.yaml").write_text(
    f"task: choice{COMMON}output_type: multiple_choice\n"
    'doc_to_target: "{{gold}}"\ndoc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]\n'
)
(folder / "writing.yaml").write_text(
    f"task: writing{COMMON}output_type: generate_until\n"
    'doc_to_target: "{{answer}}"\ngeneration_kwargs: {until: ["."], max_gen_toks: 20}\n'
    "metric_list: [{metric: exact_match}]\n"
)


def evaluate(kind: str, path: str, task: str, url: str = BASE_URL, **options: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model=kind,
        model_args={
            "model": MODEL, "base_url": f"{url}/{path}", "tokenized_requests": False, "num_concurrent": 2,
            "tokenizer_backend": None, "max_length": 2048, **options,
        },
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=kind == "local-chat-completions",
    )  # fmt: skip
    return dict(found["results"][task])


@use
def log_likelihoods() -> None:
    found = evaluate(
        "local-completions", "completions", "choice", tokenizer_backend="remote", auth_token=API_KEY
    )  # fmt: skip
    assert 0 <= found["acc,none"] <= 1


@use
def completions() -> None:
    assert "exact_match,none" in evaluate("local-completions", "completions", "writing")


@use
def chat() -> None:
    assert "exact_match,none" in evaluate("local-chat-completions", "chat/completions", "writing")


@use
def retries() -> None:
    with busy() as url:
        assert "exact_match,none" in evaluate("local-chat-completions", "chat/completions", "writing", url)


run()
