"""Models that think are evaluated on their answers: without thinking where it can be switched off."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from qwartet.client.openai_server import OpenAIServer
from qwartet.engine.request import RequestOptions
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.answerers.server import ServerAnswerer
from qwartet.evaluate.harness import run_harness
from qwartet.evaluate.question import Answer, Chat, Question
from qwartet.tokenizer.chatml import Message
from tests.client.scripted_server import ScriptedServer, whole
from tests.families.scripted import Script, load, write_model
from tests.tokenizer.own_templates import ALWAYS_THINKING, THINKING

NO_THINKING = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUESTION = Question("q", "", Chat((Message("user", "Where?"),), 32, stop=("Hm",)), None)


def say(monkeypatch: pytest.MonkeyPatch, llm: LLM, text: str, module: str) -> list[list[int]]:
    """Every answer of the model is this text; the list gets the prompts."""
    prompts: list[list[int]] = []

    class Recording(Script):
        def __call__(self, logits: Any, ids: Any) -> Any:
            if self._num_before is None:
                prompts.append(list(ids))
            return super().__call__(logits, ids)

    def options(*given: Any, **named: Any) -> RequestOptions:
        script = Recording(llm.tokenizer, text)
        return RequestOptions(*given, **named, logits_processors=(script,), speculates=False)

    monkeypatch.setattr(f"{module}.RequestOptions", options)
    return prompts


def answer(llm: LLM) -> Answer:
    [(_, found)] = EngineAnswerer(llm).answers(deque([QUESTION]))
    return found


def test_a_question_is_asked_without_thinking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(write_model(tmp_path / "model", THINKING)) as llm:
        prompts = say(monkeypatch, llm, "Oslo", "qwartet.evaluate.answerers.engine")
        assert answer(llm).text == "Oslo"
        assert llm.tokenizer.decode(prompts[0]).endswith(NO_THINKING)


def test_thinking_that_stays_is_no_part_of_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(write_model(tmp_path / "model", ALWAYS_THINKING)) as llm:
        say(monkeypatch, llm, "Hm.\n</think>\n\nOslo. Hm", "qwartet.evaluate.answerers.engine")
        assert answer(llm) == Answer("Oslo. ", finish_reason="stop")


@pytest.mark.parametrize(("ability", "sent"), [("optional", {"enable_thinking": False}), ("always", None)])
def test_a_server_is_asked_to_leave_out_thinking_if_it_says_that_it_can(ability: str, sent: Any) -> None:
    with ScriptedServer() as server:
        server.models = [whole(f'{{"data": [{{"id": "qwen", "thinking": "{ability}"}}]}}')]
        [(_, found)] = ServerAnswerer(OpenAIServer(server.url)).answers(deque([QUESTION]))
        assert found.text == "HELLO"
        assert [body.get("chat_template_kwargs") for body in server.chat_bodies] == [sent]


@pytest.mark.parametrize("template", [THINKING, ALWAYS_THINKING])
def test_lm_eval_gets_answers_without_thinking(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'harness')")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "rows.jsonl").write_text('{"text": "Where?", "answer": "Oslo"}\n')
    (tmp_path / "places.yaml").write_text(
        "task: places\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{answer}}"\n'
        "generation_kwargs: {until: [Hm], max_gen_toks: 32}\nmetric_list: [{metric: exact_match}]\n"
    )
    with load(write_model(tmp_path / "model", template)) as llm:
        text = "Oslo" if template == THINKING else "Hm.\n</think>\n\nOslo"
        prompts = say(monkeypatch, llm, text, "qwartet.llm")
        found = run_harness(llm, ["places"], include_path=tmp_path, apply_chat_template=True)
        assert found["results"]["places"]["exact_match,none"] == 1
        assert llm.tokenizer.decode(prompts[0]).endswith(NO_THINKING if template == THINKING else "<think>\n")
