"""Answers of a model in this process and of a server: those of LLM, whatever the batch and the order."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from qwartet import LLM
from qwartet.client.openai_server import OpenAIServer
from qwartet.engine.step_stats import StepStats
from qwartet.errors import NotAChatModelError, RequestError
from qwartet.evaluate.answerers.engine import EngineAnswerer
from qwartet.evaluate.answerers.server import ServerAnswerer
from qwartet.evaluate.order import leaders_ahead
from qwartet.evaluate.question import Answer, Chat, Choose, Continue, Question
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks.mmlu import Mmlu
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import CountingTask, SumTask
from tests.evaluate.published_data import published
from tests.server.running_server import RunningServer
from tests.tokenizer.vocabularies import published_tokenizer


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(device="cpu", max_num_seqs=4) as model:
        yield model


def chat(number: int, max_tokens: int = 16) -> Question:
    messages = (Message("user", f"What is {number} + {number}?"),)
    return Question(f"chat/{number}", "", Chat(messages, max_tokens), None)


def answers(answerer, questions) -> list[Answer]:
    found = [(id(question), answer) for question, answer in answerer.answers(deque(questions))]
    assert sorted(number for number, _ in found) == sorted(map(id, questions))
    return [dict(found)[id(question)] for question in questions]


def test_a_chat_answer_is_that_of_llm_chat(llm: LLM) -> None:
    found = answers(EngineAnswerer(llm), [chat(number) for number in range(10)])
    for number, answer in enumerate(found):
        expected, _ = llm.chat(f"What is {number} + {number}?", temperature=0, max_tokens=16, repetition_penalty=1.0)
        assert answer.text.strip() == expected


def test_a_cut_answer_says_so(llm: LLM) -> None:
    [cut, complete] = answers(EngineAnswerer(llm), [chat(1, max_tokens=2), chat(1, max_tokens=64)])
    assert (cut.finish_reason, complete.finish_reason) == ("length", "stop")


def test_a_text_is_continued_up_to_a_stop_string(llm: LLM) -> None:
    prompt = "1 + 1 = 2, 2 + 2 = 4, "
    questions = [
        Question("free", "", Continue(prompt, 12), None),
        Question("cut", "", Continue(prompt, 12, (" ",)), None),
    ]
    [free, stopped] = answers(EngineAnswerer(llm), questions)
    [expected] = llm.generate(prompt, llm.sampling_params(temperature=0, max_tokens=12, repetition_penalty=1.0))
    assert free.text == expected.text
    assert " " not in stopped.text and free.text.startswith(stopped.text)


def test_choices_have_the_log_likelihoods_of_llm(llm: LLM) -> None:
    prompt, choices = "Question: 2 + 2?\nAnswer:", (" 4", " 5", " four", " twenty-two")
    [answer] = answers(EngineAnswerer(llm), [Question("q", "", Choose(prompt, choices), None)])
    context = llm.tokenizer.encode(prompt)
    expected = llm.loglikelihood([(context, llm.tokenizer.encode(choice)) for choice in choices])
    assert answer.logprobs == tuple(one.logprob for one in expected)
    assert answer.num_tokens == tuple(one.num_tokens for one in expected)


def test_a_long_prompt_loses_its_beginning_where_that_is_the_protocol(llm: LLM) -> None:
    prompt = "word " * 100 + "Answer:"
    [cut] = answers(EngineAnswerer(llm), [Question("q", "", Choose(prompt, (" A",), max_length=20), None)])
    context, choice = llm.tokenizer.encode(prompt), llm.tokenizer.encode(" A")
    [expected] = llm.loglikelihood([(context[len(context) + len(choice) - 20 :], choice)])
    assert cut.logprobs == (expected.logprob,)


def test_a_question_that_does_not_fit_is_an_error_of_its_own(llm: LLM) -> None:
    long = Question("long", "", Continue("word " * 10_000), None)
    found = answers(EngineAnswerer(llm), [chat(1), long, chat(2)])
    assert found[0].error is None and found[2].error is None
    assert found[1].error is not None and "question long" in found[1].error
    with pytest.raises(RequestError, match="question long"):
        EngineAnswerer(llm).check([chat(1), long])


def test_a_base_model_is_not_asked_to_chat(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llm.generation_defaults), "is_chat", False)
    with pytest.raises(NotAChatModelError):
        EngineAnswerer(llm).check([chat(1)])
    EngineAnswerer(llm).check([Question("q", "", Continue("text"), None)])


def test_leaving_early_ends_what_is_open(llm: LLM) -> None:
    answerer = EngineAnswerer(llm)
    running = answerer.answers(deque(chat(number) for number in range(40)))
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not llm.engine.has_unfinished


def test_leaders_go_ahead_of_the_group_before() -> None:
    prefixes = ["a", "a", "a", "b", "b", "c", "", ""]
    order = leaders_ahead(prefixes)
    assert order == [0, 3, 1, 2, 5, 4, 6, 7]
    assert leaders_ahead([]) == [] and leaders_ahead(["", ""]) == [0, 1]


def test_a_shared_beginning_is_computed_once(llm: LLM) -> None:
    """5-shot costs little more than 0-shot: what prefixes have in common is computed for the first question alone."""
    examples = "".join(f"Question: {n} + {n}?\nAnswer: {2 * n}\n\n" for n in range(30))
    questions = [
        Question(f"{n}", "", Choose(f"{examples}Question: {n} + 1?\nAnswer:", (" 1", " 2")), None, prefix="sums")
        for n in range(16)
    ]
    steps: list[StepStats] = []
    llm.engine.observers.append(steps.append)
    answers(EngineAnswerer(llm), questions)
    llm.engine.observers.remove(steps.append)
    computed = sum(step.num_prompt_tokens for step in steps)
    assert computed < 2 * len(llm.tokenizer.encode(examples)) + 16 * 40


def test_worked_examples_are_tokenised_once_and_a_prompt_keeps_its_ids(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, ends_inside = "Question: 1 + 1?\nAnswer: 2\n\n", "Question: 1 + 1?\nAnswer: 2 "
    requests: list[Choose | Continue] = [Choose(f"{examples}Question: {n}?", (" 1", " 2")) for n in range(4)]
    requests += [Continue(f"{examples}Question: {n}?", 4) for n in range(4)]
    questions = [Question(f"{n}", "", asked, None, prefix=examples) for n, asked in enumerate(requests)]
    questions += [Question("inside", "", Choose(f"{ends_inside} Question: 7?", (" 1", " 2")), None, prefix=ends_inside)]
    whole = [Question(one.id, "", one.request, None) for one in questions]
    expected = answers(EngineAnswerer(llm), whole)
    read: list[str] = []
    encode = llm.tokenizer.encode
    monkeypatch.setattr(llm.tokenizer, "encode", lambda text: read.append(text) or encode(text))
    assert answers(EngineAnswerer(llm), questions) == expected
    assert read.count(examples) == 1 and ends_inside not in read
    assert [text for text in read if text.startswith(examples) and text != examples] == []


@pytest.mark.parametrize("vocabulary", [tokenizer, published_tokenizer])
def test_examples_and_question_have_the_ids_of_the_prompt(vocabulary: Callable[[], TiktokenTokenizer]) -> None:
    """Of all 14,042 prompts of MMLU: what is tokenised in two parts is what would be tokenised whole."""
    encode, splits_at = vocabulary().encode, vocabulary().splits_at
    prefix_ids: dict[str, list[int]] = {}
    for question in Mmlu(published("mmlu"), 5).questions():
        prompt, prefix = question.request.prompt, question.prefix
        assert prompt.startswith(prefix) and splits_at(prompt, len(prefix)), question.id
        if prefix not in prefix_ids:
            prefix_ids[prefix] = encode(prefix)
        assert prefix_ids[prefix] + encode(prompt[len(prefix) :]) == encode(prompt), question.id
    assert len(prefix_ids) == 57


def test_a_server_gives_the_answers_of_the_model_that_it_serves(llm: LLM, tmp_path) -> None:
    in_process = run_task(SumTask(12), EngineAnswerer(llm), RunSettings(tmp_path / "here"))
    with RunningServer(llm, model_name="demo") as running:
        answerer = ServerAnswerer(OpenAIServer(running.url), concurrency=5)
        over_http = run_task(SumTask(12), answerer, RunSettings(tmp_path / "there"))
    assert in_process.figures == over_http.figures
    [(_, here), (_, there)] = [read_run(tmp_path / name / "sums.jsonl") for name in ("here", "there")]
    assert [record.answer.strip() for record in here] == [record.answer.strip() for record in there]


def test_exchanges_are_the_same_here_and_through_a_server(llm: LLM, tmp_path) -> None:
    """An answer that was begun is gone on with, inside its turn."""
    here = run_task(CountingTask(12), EngineAnswerer(llm), RunSettings(tmp_path / "here"))
    with RunningServer(llm, model_name="demo") as running:
        answerer = ServerAnswerer(OpenAIServer(running.url), concurrency=5)
        there = run_task(CountingTask(12), answerer, RunSettings(tmp_path / "there"))
    assert here.num_errors == there.num_errors == 0
    runs = [read_run(tmp_path / name / "counting.jsonl")[1] for name in ("here", "there")]
    assert [record.answer for record in runs[0]] == [record.answer for record in runs[1]]
    assert [record.answer.count("|") for record in runs[0]] == [n % 4 for n in range(12)]


def test_a_begun_answer_is_gone_on_with(llm: LLM) -> None:
    asked = Chat((Message("user", "What is 3 + 3?"),), 16, answer_start="It is ")
    [answer] = answers(EngineAnswerer(llm), [Question("q", "", asked, None)])
    ids = llm.prompt_ids(asked.messages, answer_start="It is ")
    text = "<|im_start|>assistant\nIt is "
    assert llm.tokenizer.decode(ids).endswith(text)
    [expected] = llm.generate(ids, llm.sampling_params(temperature=0, max_tokens=16, repetition_penalty=1.0))
    assert answer.text == expected.text


def test_questions_may_be_added_while_others_are_answered(llm: LLM) -> None:
    waiting = deque([chat(1), chat(2)])
    found = []
    for question, _ in EngineAnswerer(llm).answers(waiting):
        found.append(question.id)
        if len(found) < 6:
            waiting.appendleft(chat(10 + len(found)))
    assert sorted(found) == sorted(["chat/1", "chat/2", *(f"chat/{10 + n}" for n in range(1, 6))])


def test_a_server_is_asked_by_chat_only(llm: LLM) -> None:
    with RunningServer(llm, model_name="demo") as running:
        answerer = ServerAnswerer(OpenAIServer(running.url))
        with pytest.raises(RequestError, match="log-probabilities of choices"):
            answerer.check([Question("q", "", Choose("a", ("b",)), None)])
        with pytest.raises(RequestError, match=re.escape("does not serve 'other'")):
            ServerAnswerer(OpenAIServer(running.url), "other")
