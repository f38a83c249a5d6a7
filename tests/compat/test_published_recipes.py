"""The recipes and demos of the published README, in their shape, with the import line changed and nothing else.

docs/fidelity.md lists them, each with its test here. The bundled model stands for the published names.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch

from qwartet import DEMO
from tests.golden_data import REPOSITORY
from tests.tiny_checkpoint import write_tiny_checkpoint

NAME = str(DEMO)
QUERY, ANSWER = "What is 23 + 45?", "23 + 45 = 68"
SECOND, SECOND_ANSWER = "What is 7 + 8?", "7 + 8 = 15"


@pytest.fixture(scope="module")
def tokenizer():
    from qwartet.compat import AutoTokenizer

    return AutoTokenizer.from_pretrained(NAME, trust_remote_code=True)


@pytest.fixture(scope="module")
def loaded():
    from qwartet.compat import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(NAME, device_map="auto", trust_remote_code=True).eval()


@pytest.fixture
def model(loaded):
    """The model with its own settings, whatever a recipe made of them."""
    settings = copy.deepcopy(loaded.generation_config)
    yield loaded
    loaded.generation_config = settings


def test_every_recipe_of_the_document_has_its_test() -> None:
    text = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(test_\w+)`", text.partition("## Recipes")[2])
    here = [name for name in globals() if name.startswith("test_") and "document" not in name]
    assert sorted(listed) == sorted(here)


def test_quickstart_with_transformers() -> None:
    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(NAME, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(NAME, device_map="auto", trust_remote_code=True).eval()
    model.generation_config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True)
    response, history = model.chat(tokenizer, QUERY, history=None)
    assert response == ANSWER
    response, history = model.chat(tokenizer, SECOND, history=history)
    assert response == SECOND_ANSWER
    response, history = model.chat(tokenizer, QUERY, history=history)
    assert history == [(QUERY, ANSWER), (SECOND, SECOND_ANSWER), (QUERY, response)]


@pytest.mark.parametrize("precision", [{"bf16": True}, {"fp16": True}, {"fp32": True}, {}])
def test_precisions_and_the_cpu(tokenizer, precision) -> None:
    from qwartet.compat import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(NAME, device_map="cpu", trust_remote_code=True, **precision).eval()
    name = next(iter(precision), "bf16")
    assert model.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
    assert model.chat(tokenizer, QUERY, history=None, top_k=1)[0] == ANSWER


def test_the_base_model(tmp_path: Path) -> None:
    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer

    name = write_tiny_checkpoint(tmp_path / "Qwen-7B", chat_format="raw")
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(name, device_map="auto", trust_remote_code=True).eval()
    inputs = tokenizer("hello\nworld\n", return_tensors="pt")
    inputs = inputs.to(model.device)
    pred = model.generate(**inputs, max_new_tokens=6)
    assert pred.shape == (1, inputs["input_ids"].shape[1] + 6)
    assert tokenizer.decode(pred.cpu()[0], skip_special_tokens=True).startswith("hello\nworld\n")


def test_quickstart_with_modelscope(tokenizer) -> None:
    from qwartet.compat import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(NAME, device_map="auto", trust_remote_code=True, fp16=True).eval()
    model.generation_config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True)
    model.generation_config.max_new_tokens = 3
    _, history = model.chat(tokenizer, QUERY, history=None)
    assert ANSWER.startswith(history[0][1]) and history[0][1] != ANSWER, "the assigned settings must be honoured"


def test_batch_inference() -> None:
    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, decode_tokens, make_context

    tokenizer = AutoTokenizer.from_pretrained(
        NAME, pad_token="<|extra_0|>", eos_token="<|endoftext|>", padding_side="left", trust_remote_code=True
    )
    model = AutoModelForCausalLM.from_pretrained(
        NAME, pad_token_id=tokenizer.pad_token_id, device_map="auto", trust_remote_code=True
    ).eval()
    assert model.config.pad_token_id == tokenizer.pad_token_id
    model.generation_config = GenerationConfig.from_pretrained(NAME, pad_token_id=tokenizer.pad_token_id)
    all_raw_text = [QUERY, "Hi", SECOND]
    batch_raw_text = []
    for q in all_raw_text:
        raw_text, _ = make_context(
            tokenizer,
            q,
            system="You are a helpful assistant.",
            max_window_size=model.generation_config.max_window_size,
            chat_format=model.generation_config.chat_format,
        )
        batch_raw_text.append(raw_text)
    batch_input_ids = tokenizer(batch_raw_text, padding="longest")
    batch_input_ids = torch.LongTensor(batch_input_ids["input_ids"]).to(model.device)
    model.generation_config.do_sample = False
    batch_out_ids = model.generate(
        batch_input_ids, return_dict_in_generate=False, generation_config=model.generation_config
    )
    padding_lens = [batch_input_ids[i].eq(tokenizer.pad_token_id).sum().item() for i in range(batch_input_ids.size(0))]
    assert max(padding_lens) > 0
    batch_response = [
        decode_tokens(
            batch_out_ids[i][padding_lens[i] :],
            tokenizer,
            raw_text_len=len(batch_raw_text[i]),
            context_length=(batch_input_ids[i].size(0) - padding_lens[i]),
            chat_format="chatml",
            verbose=False,
            errors="replace",
        )
        for i in range(len(all_raw_text))
    ]
    assert batch_response == [model.chat(tokenizer, query, history=None)[0] for query in all_raw_text]
    assert (batch_response[0], batch_response[2]) == (ANSWER, SECOND_ANSWER)


def test_quantization_of_the_kv_cache(tokenizer) -> None:
    from qwartet.compat import AutoModelForCausalLM

    with pytest.warns(UserWarning, match="unquantised"):
        model = AutoModelForCausalLM.from_pretrained(
            NAME, device_map="auto", trust_remote_code=True, use_cache_quantization=True, use_cache_kernel=True,
            use_flash_attn=False,
        )  # fmt: skip
    assert model.chat(tokenizer, QUERY, None, top_k=1)[0] == ANSWER


def test_quantised_models_with_auto_gptq(tokenizer) -> None:
    from qwartet.compat import AutoGPTQForCausalLM

    model = AutoGPTQForCausalLM.from_quantized(
        NAME, device_map="cpu", trust_remote_code=True, resume_download=True, use_safetensors=True
    ).eval()
    assert model.chat(tokenizer, QUERY, history=None, top_k=1)[0] == ANSWER
    named = AutoGPTQForCausalLM.from_quantized(NAME, device="cpu", use_safetensors=True, use_flash_attn=False)
    assert named.device == model.device


def test_the_cards_system_prompts(model, tokenizer) -> None:
    answers = [
        model.chat(tokenizer, "Hi", history=None, system=system, top_k=1, max_new_tokens=16)[0]
        for system in ("You are a helpful assistant.", "You will write beautiful compliments according to needs")
    ]
    assert answers[0] == model.chat(tokenizer, "Hi", history=None, top_k=1, max_new_tokens=16)[0]
    assert answers[1] != answers[0]


def test_the_command_line_demo(capsys) -> None:
    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, set_seed

    tokenizer = AutoTokenizer.from_pretrained(NAME, trust_remote_code=True, resume_download=True)
    model = AutoModelForCausalLM.from_pretrained(
        NAME, device_map="cpu", trust_remote_code=True, resume_download=True
    ).eval()
    config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True, resume_download=True)
    orig_gen_config = copy.deepcopy(model.generation_config)
    model.generation_config.top_p = 0.1  # :conf
    assert "top_p=0.1" in repr(model.generation_config)
    model.generation_config = copy.deepcopy(orig_gen_config)  # :reset-conf
    assert model.generation_config == orig_gen_config == config
    history, response = [], ""
    for query in (QUERY, SECOND):
        set_seed(1234)
        for response in model.chat_stream(tokenizer, query, history=history, generation_config=config):
            print(f"\nQwen-Chat: {response}")
        history.append((query, response))
    assert history == [(QUERY, ANSWER), (SECOND, SECOND_ANSWER)]
    assert f"\nQwen-Chat: {ANSWER[:2]}\n" in capsys.readouterr().out, "the texts are cumulative"
    with pytest.raises(KeyboardInterrupt):
        for _ in model.chat_stream(tokenizer, QUERY, history=history, generation_config=config):
            raise KeyboardInterrupt
    assert model.chat(tokenizer, QUERY, history, generation_config=config)[0] == ANSWER


def test_the_web_demo(model, tokenizer) -> None:
    from qwartet.compat import GenerationConfig

    config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True, resume_download=True)

    def predict(_query, _chatbot, _task_history):
        _chatbot.append((_query, ""))
        full_response = ""
        for response in model.chat_stream(tokenizer, _query, history=_task_history, generation_config=config):
            _chatbot[-1] = (_query, response)
            yield _chatbot
            full_response = response
        _task_history.append((_query, full_response))

    chatbot, task_history = [], []
    for query in (QUERY, SECOND):
        shown = [dict(state)[query] for state in predict(query, chatbot, task_history)]
    assert shown == sorted(shown, key=len)
    assert task_history == chatbot == [(QUERY, ANSWER), (SECOND, SECOND_ANSWER)]
    item = task_history.pop(-1)  # regenerate
    chatbot.pop(-1)
    list(predict(item[0], chatbot, task_history))
    assert task_history[-1] == (SECOND, SECOND_ANSWER)


@pytest.mark.filterwarnings("ignore:max_length=9 has no effect")
def test_the_openai_api_demo(model, tokenizer) -> None:
    """Chat, stream, and the completion of an answer that a function's result was put into."""
    system = "You are a helpful assistant."
    history, gen_kwargs = [[QUERY, ANSWER]], {"top_k": 1, "max_length": 9}
    stop_words_ids = [tokenizer.encode(s) for s in [" ="]]
    response, _ = model.chat(
        tokenizer, SECOND, history=history, system=system, stop_words_ids=stop_words_ids, **gen_kwargs
    )
    assert response == "7 + 8 ="
    texts = model.chat_stream(
        tokenizer, SECOND, history=history, stop_words_ids=stop_words_ids, system=system, **gen_kwargs
    )
    assert list(texts)[-1] == "7 + 8 ="

    im_start, im_end = "<|im_start|>", "<|im_end|>"
    prompt = f"{im_start}system\n{system}{im_end}\n{im_start}user\n{SECOND}{im_end}\n{im_start}assistant\n7 + 8 ="
    input_ids = torch.tensor([tokenizer.encode(prompt)]).to(model.device)
    output = model.generate(input_ids, stop_words_ids=[tokenizer.encode(im_end)], **gen_kwargs).tolist()[0]
    output = tokenizer.decode(output, errors="ignore")
    assert output.startswith(prompt)
    assert output[len(prompt) :].replace("<|endoftext|>", "").replace(im_end, "") == " 15"


def test_function_calling_with_react_through_chat(model, tokenizer) -> None:
    react_stop_words = [tokenizer.encode("Observation:"), tokenizer.encode("Observation:\n"), tokenizer.encode(" =")]
    prompt_react = f"Answer the following questions as best you can.\n\nBegin!\n\nQuestion: {SECOND}"
    assert model.chat(tokenizer, prompt_react, history=None, stop_words_ids=react_stop_words, top_k=1)[0]
    response, history = model.chat(tokenizer, SECOND, history=None, stop_words_ids=react_stop_words, top_k=1)
    assert response == "7 + 8 =" and history == [(SECOND, "7 + 8 =")], "it ends with the stop word"


def test_function_calling_with_react_through_generate(model, tokenizer) -> None:
    from qwartet.compat import GenerationConfig

    model.generation_config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True)

    def text_completion(input_text: str, stop_words: list[str]) -> str:
        im_end = "<|im_end|>"
        stop_words_ids = [tokenizer.encode(w) for w in [*stop_words, im_end]]
        input_ids = torch.tensor([tokenizer.encode(input_text)]).to(model.device)
        output = model.generate(input_ids, stop_words_ids=stop_words_ids)
        output = tokenizer.decode(output.tolist()[0], errors="ignore")
        assert output.startswith(input_text)
        return output[len(input_text) :].replace("<|endoftext|>", "").replace(im_end, "")

    prompt = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{SECOND}<|im_end|>"
    prompt += "\n<|im_start|>assistant\n"
    begun = text_completion(prompt, [" ="])
    assert begun == "7 + 8 ="
    assert text_completion(prompt + begun, ["Observation:"]) == " 15"


def test_the_smoke_test_of_a_checkpoint(tokenizer) -> None:
    """demo.py: max_memory beside a device, and `inputs=` by its name."""
    from qwartet.compat import AutoModelForCausalLM, set_seed

    set_seed(1234)
    model = AutoModelForCausalLM.from_pretrained(
        NAME, device_map={"": "cpu"}, max_memory={0: "38GB"}, trust_remote_code=True
    ).eval()
    inputs = tokenizer("The sea is", return_tensors="pt").to(model.device)
    pred = model.generate(inputs=inputs["input_ids"], max_new_tokens=4)
    assert tokenizer.decode(pred.cpu()[0], skip_special_tokens=True).startswith("The sea is")
    history = None
    for query in (QUERY, SECOND):
        _, history = model.chat(tokenizer, query, history=history)
    assert history == [(QUERY, ANSWER), (SECOND, SECOND_ANSWER)]


def test_the_evaluation_scripts() -> None:
    """Logits of the last position for each choice, and greedy answers."""
    from qwartet.compat import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(
        NAME, pad_token="<|extra_0|>", eos_token="<|endoftext|>", padding_side="left", trust_remote_code=True
    )
    model = AutoModelForCausalLM.from_pretrained(
        NAME, device_map="auto", trust_remote_code=True, bf16=True, use_flash_attn=True
    ).eval()
    input_ids = tokenizer(["What is 2 + 2?"], padding="longest")["input_ids"]
    input_ids = torch.tensor(input_ids, device=model.device)
    logits = model(input_ids)["logits"][:, -1, :]
    choices = logits[:, [tokenizer(letter)["input_ids"][0] for letter in "ABCD"]]
    assert torch.nn.functional.softmax(choices.float(), dim=-1).sum().item() == pytest.approx(1.0)
    model.generation_config = GenerationConfig.from_pretrained(NAME, trust_remote_code=True)
    model.generation_config.do_sample = False  # use greedy decoding
    model.generation_config.repetition_penalty = 1.0  # disable repetition penalty
    assert model.chat(tokenizer, QUERY, history=None)[0] == ANSWER


def test_the_profiling_script(model, tokenizer) -> None:
    context, length = 16, 12
    inputs = tokenizer("我" * context, return_tensors="pt").to(model.device)
    num_inputs = inputs["input_ids"].shape[1]
    model.generation_config.min_length = length + num_inputs
    model.generation_config.max_new_tokens = length
    pred = model.generate(**inputs)
    assert pred.shape[1] == num_inputs + length


def test_the_notes_on_tokenization(tokenizer) -> None:
    text = 'print("<|endoftext|>")'
    assert tokenizer.eod_id in tokenizer.encode(text)
    assert tokenizer.eod_id not in tokenizer(text, allowed_special=set())["input_ids"]
    mixed = 'print("<|extra_0|>")<|endoftext|>'
    ids = tokenizer(mixed, allowed_special={"<|endoftext|>"}, disallowed_special=())["input_ids"]
    assert ids[-1] == tokenizer.eod_id and tokenizer.special_tokens["<|extra_0|>"] not in ids
    with pytest.raises(ValueError, match="disallowed special token"):
        tokenizer(mixed, allowed_special={"<|endoftext|>"}, disallowed_special=("<|extra_0|>",))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(text))[0].__class__ is bytes
    assert tokenizer.decode(tokenizer.encode("你好"), errors="ignore") == "你好"


def test_conversations_of_other_programs(model, tokenizer) -> None:
    """A history that json.load, the OpenAI SDK or the ReAct demo gives."""
    expected = model.chat(tokenizer, SECOND, [(QUERY, ANSWER)], top_k=1)
    as_lists = json.loads(json.dumps([(QUERY, ANSWER)]))
    response, longer = model.chat(tokenizer, SECOND, as_lists, top_k=1)
    assert (response, longer) == (expected[0], [[QUERY, ANSWER], (SECOND, expected[0])])
    messages = [{"role": "user", "content": QUERY}, {"role": "assistant", "content": ANSWER}]
    assert model.chat(tokenizer, SECOND, messages, top_k=1) == expected
    assert model.chat(tokenizer, SECOND, [{"user": QUERY, "bot": ANSWER}], top_k=1) == expected
    for given in (["ab", "cd"], [{"q": "x", "a": "y"}], [(QUERY, None)]):
        before = copy.deepcopy(given)
        with pytest.raises(ValueError, match="history"):
            model.chat(tokenizer, SECOND, given)
        with pytest.raises(ValueError, match="history"):
            model.chat_stream(tokenizer, SECOND, given)
        assert given == before
