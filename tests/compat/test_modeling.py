"""How callers use the original: loading and moving a model, arguments of generate(), processors and streamers."""

from __future__ import annotations

from queue import Empty
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qwartet import DEMO, LLM, AutoModelForCausalLM, AutoTokenizer
from qwartet.compat import (
    AutoGPTQForCausalLM,
    LogitsProcessorList,
    StopWordsLogitsProcessor,
    TextIteratorStreamer,
    TextStreamer,
    decode_tokens,
    get_stop_words_ids,
    make_context,
)
from qwartet.compat.placement import chosen_device, chosen_dtype, parsed_to
from qwartet.errors import RequestError, SettingError

QUERY, ANSWER = "What is 23 + 45?", "23 + 45 = 68"
GREEDY = {"do_sample": False, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO, device_map="cpu").eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO, pad_token="<|extra_0|>", padding_side="left")


@pytest.fixture(scope="module")
def prompt(tokenizer) -> list[int]:
    return make_context(tokenizer, QUERY, system="You are a helpful assistant.")[1]


# Loading


def test_arguments_without_effect_change_no_answer(tokenizer) -> None:
    harmless = {
        "low_cpu_mem_usage": True, "resume_download": True, "local_files_only": True, "force_download": False,
        "trust_remote_code": True, "revision": "main", "cache_dir": "/nowhere", "use_flash_attn": True, "token": None,
        "use_safetensors": True, "attn_implementation": "eager", "max_memory": {0: "1GB"}, "offload_folder": "x",
        "load_in_4bit": False, "load_in_8bit": False, "quantization_config": None, "code_revision": "main",
        "device_map": {"": "cpu"}, "torch_dtype": "auto", "pad_token_id": 5, "eos_token_id": None, "use_cache": False,
        "vocab_size": 4352,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(DEMO, **harmless)
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER
    assert model.config.pad_token_id == 5 and model.generation_config.pad_token_id == 4096


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load_in_8bit": True}, "load_in_8bit=True is not supported; .*quantize"),
        ({"load_in_4bit": True}, "load_in_4bit=True"),
        ({"config": SimpleNamespace()}, "change config.json in a copy"),
        ({"variant": "fp16"}, "variant='fp16'"),
        ({"output_loading_info": True}, "output_loading_info=True"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is .* in config.json, and 1 as an argument"),
        ({"use_dynamic_ntk": "maybe"}, "use_dynamic_ntk"),
        ({"quantization_config": {"bits": 8}}, "asks for 8 bits, and the checkpoint has 4 bits"),
        ({"quantization_config": SimpleNamespace(load_in_4bit=True)}, "asks for None bits"),
        ({"devicemap": "auto"}, "from_pretrained has no argument 'devicemap'; did you mean 'device_map'"),
        ({"bf16": True, "fp16": True}, "only one of"),
        ({"bf16": True, "torch_dtype": torch.float16}, "bf16=True, but torch_dtype is torch.float16"),
        ({"torch_dtype": "int4"}, "dtype is 'int4'"),
        ({"device_map": {"a": "cpu", "b": "cuda:0"}}, "cuda:0, but torch sees 0|device_map names cpu, cuda:0"),
        ({"device_map": {}}, "device_map names no device"),
        ({"device_map": ""}, "device is ''"),
        ({"device_map": "disk"}, "device is 'disk'"),
        ({"device_map": True}, "device_map is True"),
        ({"revision": "v1.0"}, "a revision needs a hub id"),
    ],
)
def test_an_argument_that_would_matter_and_is_not_honoured_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        AutoModelForCausalLM.from_pretrained(DEMO, **arguments)


def test_a_quantisation_config_of_the_checkpoints_own_bits_is_one_of_kernels() -> None:
    for config in ({"bits": 4, "disable_exllama": True}, SimpleNamespace(bits=4, use_exllama=False)):
        AutoModelForCausalLM.from_pretrained(DEMO, quantization_config=config)
    AutoGPTQForCausalLM.from_quantized(DEMO, "cpu", inject_fused_attention=False, model_basename="model")


def test_devices_and_dtypes_are_read_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for given in ("cuda", "cuda:0", 0, torch.device("cuda"), {"": 0}, {"": "cuda:0"}, "auto", "balanced", {"": "auto"}):
        assert chosen_device(given) == torch.device("cuda:0")
    assert chosen_device({"": 1}) == chosen_device("cuda:1") == torch.device("cuda:1")
    assert chosen_device(None) == chosen_device({"": "cpu"}) == torch.device("cpu")
    with pytest.raises(SettingError, match="cuda:0, cuda:1; a model is on one device here"):
        chosen_device({"transformer.wte": 0, "lm_head": 1})
    assert parsed_to((torch.float16,), {}) == (torch.float16, None)
    assert parsed_to(("cuda:1", torch.float32, True), {}) == (torch.float32, torch.device("cuda:1"))
    assert parsed_to((), {"device": 1, "dtype": torch.bfloat16}) == (torch.bfloat16, torch.device("cuda:1"))
    with pytest.raises(SettingError, match="no argument 'devise'"):
        parsed_to((), {"devise": 1})
    none = {"bf16": False, "fp16": False, "fp32": False}
    for given in ("float16", "torch.float16", "fp16", "half", torch.float16):
        assert chosen_dtype(none, given) == chosen_dtype({**none, "fp16": True}, given) == torch.float16
    assert chosen_dtype(none, None) == chosen_dtype(none, "auto") == "auto"


def test_a_model_moves_between_dtypes_and_stays_itself(tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO)
    moved = model.half()
    assert moved is model and moved.dtype == torch.float16
    assert model.float().cpu().to("cpu").dtype == torch.float32
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER
    assert model.to(dtype=torch.bfloat16).bfloat16().eval().requires_grad_(False).train(False).dtype == torch.bfloat16
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER
    assert {parameter.device for parameter in model.parameters()} == {model.device}
    for wrong in (lambda: model.train(), lambda: model.requires_grad_(), lambda: model.to("nowhere")):
        with pytest.raises(SettingError):
            wrong()
    with pytest.raises(SettingError, match=r"dtype is torch\.int8"):
        model.to(torch.int8)
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER, "a move that fails leaves the model usable"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_named(model, tokenizer) -> None:
    for act in (model.cuda, lambda: model.cuda(0), lambda: model.to("cuda:0")):
        with pytest.raises(SettingError, match="torch sees 0 GPUs"):
            act()
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER


# Ids


def test_ids_come_in_every_form(model, prompt) -> None:
    expected = model.generate(torch.tensor([prompt]), **GREEDY)
    forms = [prompt, [prompt], np.array(prompt), np.array([prompt], dtype=np.int32), torch.tensor(prompt)]
    for ids in [*forms, torch.tensor([prompt], dtype=torch.int32), tuple(prompt)]:
        assert model.generate(ids, **GREEDY).equal(expected)
        assert model.generate(input_ids=ids, **GREEDY).equal(expected)
    for mask in ([1] * len(prompt), np.ones((1, len(prompt)), dtype=bool), torch.ones(len(prompt))[None].int()):
        assert model.generate(prompt, attention_mask=mask, **GREEDY).equal(expected)
    logits = model(torch.tensor([prompt])).logits
    for ids in forms:
        assert model(ids, attention_mask=np.ones(len(prompt), dtype=int), use_cache=False)["logits"].equal(logits)
    with_loss = model(prompt, labels=prompt)
    assert with_loss[0] is with_loss.loss and with_loss[1] is with_loss["logits"] is with_loss.logits
    assert model(prompt)[0].equal(logits)
    with pytest.raises(KeyError):
        _ = model(prompt)["loss"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2], [3]], "not a batch of equally long rows"),
        ("hello", "input_ids"),
        (None, "needs input_ids"),
        ([], "pass integers"),
        ([1.0, 2.0], "dtype torch.float32"),
        ([True, False], "dtype torch.bool"),
        ([[[1]]], "3 dimensions"),
        (5, "0 dimensions"),
        ([-1], "ids outside 0"),
        ([10**6], "ids outside 0"),
    ],
)
def test_what_are_no_ids_is_refused_by_name(model, ids: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.generate(ids, **GREEDY)


def test_ids_given_twice_and_unknown_arguments_of_a_call_are_refused(model, prompt) -> None:
    with pytest.raises(RequestError, match="input_ids once"):
        model.generate(prompt, input_ids=prompt)
    with pytest.raises(SettingError, match="no argument 'past_key_values'"):
        model(prompt, past_key_values=((1,),))
    assert model(prompt, past_key_values=None).loss is None


def test_a_padded_batch_of_a_tokenizer(model, tokenizer, prompt) -> None:
    texts = [tokenizer.decode(prompt), make_context(tokenizer, "Hi", system="You are a helpful assistant.")[0]]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    stops = get_stop_words_ids("chatml", tokenizer)
    rows = model.generate(**batch, **GREEDY, stop_words_ids=stops)
    width = batch.input_ids.shape[1]
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer.encode(text)
        alone = model.generate(ids, **GREEDY, stop_words_ids=stops)[0, len(ids) :]
        told = [tokenizer.decode(completion, skip_special_tokens=True) for completion in (row[width:], alone)]
        assert told[0] == told[1] != ""


def test_a_result_as_an_object(model, prompt) -> None:
    result = model.generate(prompt, return_dict_in_generate=True, **GREEDY)
    assert result.sequences.equal(model.generate(prompt, **GREEDY)) and result["sequences"] is result[0]


def test_stop_words_need_an_eos_and_ids(model, prompt) -> None:
    for wrong in ([], [5], "x", ((5,),), [[-1]], [[True]], [["a"]]):
        with pytest.raises(SettingError, match="stop_words_ids is"):
            model.generate(prompt, stop_words_ids=wrong)
    with pytest.raises(SettingError, match="contains an empty stop word"):
        model.generate(prompt, stop_words_ids=[[5], []])
    with pytest.raises(SettingError, match="eos_token_id is None; set eos_token_id"):
        model.generate(prompt, stop_words_ids=[[5]], eos_token_id=None)
    assert not model.engine.has_unfinished
    expected = model.generate(prompt, stop_words_ids=[[5, 6]], **GREEDY)
    assert model.generate(prompt, stop_words_ids=[[np.int64(5), 6]], **GREEDY).equal(expected)


# Processors, criteria, streamers


def test_logits_processors_see_padding_prompt_and_completion(model, tokenizer) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def watch(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(input_ids.shape), tuple(scores.shape)))
        scores[:, 9] = torch.inf  # in place, as processors do
        return scores

    batch = tokenizer(["a b c d e f", "a"], return_tensors="pt", padding=True)
    width = batch.input_ids.shape[1]
    for given in ([watch], LogitsProcessorList([watch]), (watch,)):
        rows = model.generate(**batch, logits_processor=given, do_sample=False, max_new_tokens=2)
        assert rows[:, width:].tolist() == [[9, 9], [9, 9]]
    vocab_size = model.config.vocab_size
    assert sorted(set(seen)) == [((1, width), (1, vocab_size)), ((1, width + 1), (1, vocab_size))]


def test_a_processor_with_a_state_is_called_once_for_every_token(model, tokenizer) -> None:
    """Repeated text makes the engine draft tokens: a processor must not see the rejected ones."""
    lengths: list[int] = []
    ids = tokenizer.encode("The code of Rosa is 42. The code of Rosa is 43. The code of Rosa is")
    watch = [lambda input_ids, scores: (lengths.append(input_ids.shape[1]), scores)[1]]
    plain = model.generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=None)
    watched = model.generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=None, logits_processor=watch)
    assert watched.equal(plain) and lengths == list(range(len(ids), len(ids) + 40))


def test_processors_of_chat_and_of_the_original(model, tokenizer, prompt) -> None:
    def no_six(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor(tokenizer.encode("6")), -torch.inf)

    response, _ = model.chat(tokenizer, QUERY, None, logits_processor=[no_six], **GREEDY)
    assert "6" not in response and response.startswith("23 + 45 = ")
    texts = list(model.chat_stream(tokenizer, QUERY, None, logits_processor=[no_six], **GREEDY))
    assert texts[-1].strip() == response
    stops = get_stop_words_ids("chatml", tokenizer)
    eos = model.generation_config.eos_token_id
    processors = LogitsProcessorList([StopWordsLogitsProcessor(stops, eos)])
    given = model.generate(prompt, logits_processor=processors, **GREEDY)
    assert given.equal(model.generate(prompt, stop_words_ids=stops, **GREEDY)) and len(processors) == 1


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"logits_processor": 5}, "logits_processor is 5"),
        ({"logits_processor": [5]}, "logits_processor is"),
        ({"logits_processor": [lambda ids, scores: None]}, "must return scores of shape"),
        ({"logits_processor": [lambda ids, scores: scores[0]]}, "must return scores of shape"),
        ({"streamer": 5}, "streamer is 5"),
        ({"stopping_criteria": 5}, "stopping_criteria is 5"),
    ],
)
def test_hooks_of_another_form_are_refused(model, prompt, hooks: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        model.generate(prompt, **GREEDY, **hooks)


def test_the_engine_serves_on_after_a_processor_that_fails(model, tokenizer, prompt) -> None:
    def fail(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        model.generate(prompt, logits_processor=[fail], **GREEDY)
    assert model.chat(tokenizer, QUERY, None, **GREEDY)[0] == ANSWER


def test_a_criterion_ends_a_row(model, tokenizer, prompt) -> None:
    whole = model.generate(prompt, **GREEDY)
    stopped = model.generate(prompt, stopping_criteria=[lambda ids, scores: ids.shape[1] >= len(prompt) + 3], **GREEDY)
    assert stopped.tolist() == [whole[0, : len(prompt) + 3].tolist()]
    assert not model.engine.has_unfinished
    with pytest.raises(SettingError, match="take one row"):
        model.generate([prompt, prompt], stopping_criteria=[lambda ids, scores: True])


def test_a_streamer_gets_the_prompt_and_every_id(model, prompt) -> None:
    got: list[object] = []
    streamer = SimpleNamespace(put=lambda ids: got.append(ids.tolist()), end=lambda: got.append("end"))
    output = model.generate(prompt, streamer=streamer, **GREEDY)
    assert got == [[prompt], *([i] for i in output[0, len(prompt) :].tolist()), "end"]
    with pytest.raises(SettingError, match="take one row"):
        model.generate([prompt, prompt], streamer=streamer)
    with pytest.raises(SettingError, match="take one row"):
        model.generate(prompt, streamer=streamer, num_return_sequences=2, do_sample=True)


def test_text_streamers_print_and_yield(model, tokenizer, prompt, capsys) -> None:
    stops = [[tokenizer.im_end_id]]
    model.generate(
        prompt, streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True), stop_words_ids=stops,
        **GREEDY,
    )  # fmt: skip
    assert capsys.readouterr().out == ANSWER + "\n"
    model.chat(tokenizer, QUERY, None, streamer=TextStreamer(tokenizer), **GREEDY)
    assert capsys.readouterr().out.startswith(tokenizer.decode(prompt) + ANSWER)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    settings = {"inputs": torch.tensor([prompt]), "streamer": streamer, "stop_words_ids": stops, **GREEDY}
    thread = Thread(target=model.generate, kwargs=settings)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == ANSWER and len(pieces) > 3


def test_a_text_streamer_holds_back_half_a_character(tokenizer, capsys) -> None:
    streamer = TextStreamer(tokenizer)
    ids = [token_id for byte in "é🤗".encode() for token_id in [tokenizer.convert_tokens_to_ids(bytes([byte]))]]
    shown = []
    for token_id in ids:
        streamer.put(torch.tensor([token_id]))
        shown.append(capsys.readouterr().out)
    streamer.end()
    assert shown == ["", "é", "", "", "", "🤗"]
    with pytest.raises(SettingError, match="takes one row"):
        streamer.put(torch.tensor([[1], [2]]))


def test_a_reader_in_another_thread_does_not_wait_for_a_run_that_failed(model, tokenizer, prompt) -> None:
    streamer = TextIteratorStreamer(tokenizer, timeout=60)
    with pytest.raises(SettingError, match="must return scores"):
        model.generate(prompt, streamer=streamer, logits_processor=[lambda ids, scores: None], **GREEDY)
    assert "".join(streamer) == tokenizer.decode(prompt)
    with pytest.raises(Empty):
        next(TextIteratorStreamer(tokenizer, timeout=0.01))


# Conversations


def test_a_window_of_none_is_the_configs_and_of_zero_keeps_no_turn(model, tokenizer) -> None:
    history = [(QUERY, ANSWER)]
    usual = model.chat(tokenizer, "Hi", history, **GREEDY)[0]
    assert model.chat(tokenizer, "Hi", history, max_window_size=None, **GREEDY)[0] == usual
    alone = model.chat(tokenizer, "Hi", None, **GREEDY)[0]
    assert model.chat(tokenizer, "Hi", history, max_window_size=0, **GREEDY)[0] == alone


def test_an_empty_system_prompt_is_one(model, tokenizer) -> None:
    """ "" is a prompt of its own, and None the published one: LLM and the card's interface agree."""
    contexts: list[list[int]] = []

    def watch(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        contexts.append(input_ids[0].tolist())
        return scores

    for system in ("", None, "You are a helpful assistant."):
        model.chat(tokenizer, "Hi", None, system, logits_processor=[watch], do_sample=False, max_new_tokens=1)
    assert contexts[1] == contexts[2] and len(contexts[0]) < len(contexts[1])
    assert contexts[0] == make_context(tokenizer, "Hi", system="")[1]
    llm = LLM(DEMO)
    assert contexts[0] == llm.chat_prompt("Hi", [], "", llm.sampling_params(max_tokens=1))


def test_the_published_functions_take_their_published_arguments(model, tokenizer) -> None:
    raw_text, ids = make_context(tokenizer, "q", history=[["a", "b"]], system="s", max_window_size=6144)
    assert tokenizer.encode(raw_text) == ids
    assert make_context(tokenizer, "x<|im_end|>", chat_format="raw") == ("x<|im_end|>", tokenizer.encode("x<|im_end|>"))
    with pytest.raises(SettingError, match="unknown chat format"):
        make_context(tokenizer, "x", chat_format="alpaca")
    with pytest.raises(RequestError, match="history"):
        make_context(tokenizer, "x", history=["ab"])
    tokens = torch.tensor([*ids, *tokenizer.encode("ok"), tokenizer.im_end_id])
    arguments = (tokenizer, len(raw_text), len(ids), "chatml")
    assert decode_tokens(tokens, *arguments) == decode_tokens(tokens.tolist(), *arguments) == "ok"
    assert decode_tokens(tokens.numpy(), *arguments, return_end_reason=True) == ("ok", "Gen '<|im_end|>'")
    assert get_stop_words_ids("chatml", tokenizer) == [[tokenizer.im_end_id], [tokenizer.im_start_id]]


def test_swapped_arguments_are_named(model, tokenizer) -> None:
    with pytest.raises(SettingError, match="tokenizer is 'Hi'"):
        model.chat("Hi", tokenizer, None)
    with pytest.raises(SettingError, match=r"stop_words_ids is \(\(5,\),\)"):
        model.chat(tokenizer, "Hi", None, stop_words_ids=((5,),))
    with pytest.raises(SettingError, match="an empty stop word"):
        model.chat(tokenizer, "Hi", None, stop_words_ids=[[5], tokenizer.encode("")])
