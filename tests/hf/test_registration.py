"""Registration with transformers: our classes, no code of a checkpoint, and nothing changed for other models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import qwartet
from qwartet.errors import CheckpointError, SettingError
from tests.golden_data import REPOSITORY, golden_path
from tests.hf.loaded import QWenConfig, QWenLMHeadModel, QWenTokenizer, load, loaded, requirement, transformers
from tests.models.broken import edit_json

AUTOS = ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModel", "AutoProcessor")
EVIL = """
from pathlib import Path
Path({marker!r}).write_text("code ran")
raise RuntimeError("code ran")
"""


def change(path: Path, **changes: object) -> None:
    """Changes keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture(params=["as published", "without tokenizer_class", "from another repository", "in every file"])
def hostile(request: pytest.FixtureRequest, checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A valid checkpoint with code that leaves a marker, and every key that makes transformers run it."""
    directory = checkpoint()
    code = EVIL.format(marker=str(tmp_path / "marker"))
    (tmp_path / "elsewhere").mkdir()
    for place in (directory, tmp_path / "elsewhere"):
        for name in ("configuration_qwen", "modeling_qwen", "tokenization_qwen", "evil"):
            (place / f"{name}.py").write_text(code)
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(code)
    prefix = f"{tmp_path / 'elsewhere'}--" if request.param == "from another repository" else ""
    auto_map = {
        "AutoConfig": f"{prefix}configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": f"{prefix}modeling_qwen.QWenLMHeadModel",
        "AutoModel": f"{prefix}evil.Evil",
    }
    extra = {"custom_pipelines": {"text-generation": {"impl": "evil.Evil", "pt": ["AutoModelForCausalLM"]}}}
    change(
        directory / "config.json", auto_map=auto_map, attn_implementation="evil/kernels", trust_remote_code=True,
        _attn_implementation_internal="evil/kernels", fusion_config={"x": True}, transformers_weights="../x", **extra,
    )  # fmt: skip
    tokenizer_map = {"AutoTokenizer": [f"{prefix}tokenization_qwen.QWenTokenizer", None], "AutoProcessor": "evil.Evil"}
    tokenizer_class = None if request.param == "without tokenizer_class" else "QWenTokenizer"
    change(directory / "tokenizer_config.json", auto_map=tokenizer_map, tokenizer_class=tokenizer_class)
    if request.param == "in every file":
        (directory / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "evil.Evil"}}))
    return directory


def test_sec_02_no_code_of_a_checkpoint_runs_whatever_is_trusted(hostile: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for trust in (None, False, True):
        arguments = {} if trust is None else {"trust_remote_code": trust}
        config = transformers.AutoConfig.from_pretrained(hostile, **arguments)
        assert type(config) is QWenConfig and not hasattr(config, "auto_map")
        model = load(hostile, **arguments)
        assert type(model) is QWenLMHeadModel and model.config._attn_implementation == "sdpa"
        assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=2, do_sample=False).shape == (1, 4)
        for auto in AUTOS:
            try:
                found = getattr(transformers, auto).from_pretrained(hostile, **arguments)
            except (ValueError, OSError, ImportError, AttributeError) as error:
                assert "code ran" not in str(error), auto
            else:
                assert type(found) in (QWenConfig, QWenTokenizer, QWenLMHeadModel), auto
        transformers.AutoModelForCausalLM.from_config(config, **arguments)
        assert not marker.exists(), f"trust_remote_code={trust}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(hostile, trust_remote_code=True)
    assert type(tokenizer) is QWenTokenizer
    pipe = transformers.pipeline("text-generation", model=str(hostile), trust_remote_code=True)
    assert type(pipe.model) is QWenLMHeadModel and not marker.exists()


def test_sec_02_code_of_other_names_is_refused_and_nothing_saved_names_code(hostile: Path, tmp_path: Path) -> None:
    change(hostile / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class=None)
    with pytest.raises(
        SettingError, match=r"'evil.Evil' is code that comes with the checkpoint, which is never executed"
    ):
        transformers.AutoTokenizer.from_pretrained(hostile, trust_remote_code=True)
    load(hostile, trust_remote_code=True).save_pretrained(tmp_path / "saved")
    assert not [path.name for path in (tmp_path / "saved").iterdir() if path.suffix == ".py"]
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_code_of_other_models_runs_if_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (tmp_path / "mine.py").write_text(
        "from transformers import PretrainedConfig\nclass Mine(PretrainedConfig):\n    model_type = 'mine'\n"
    )
    config = transformers.AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(config).__name__ == "Mine"


# In a process of its own: with the import and without it.
OTHER_GPTQ = """
import sys, transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
if sys.argv[1] == "with":
    import qwartet.hf
print(AUTO_QUANTIZER_MAPPING["gptq"].__module__, AUTO_QUANTIZATION_CONFIG_MAPPING["gptq"].__module__)
try:
    transformers.AutoModelForCausalLM.from_pretrained(sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
config = transformers.AutoConfig.from_pretrained(sys.argv[2])
print(config.quantization_config, hasattr(config, "gptq"))
"""


def test_the_gptq_of_other_models_is_transformers_own(tmp_path: Path) -> None:
    quantization = json.loads((golden_path("gptq-int4") / "config.json").read_text())["quantization_config"]
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=64, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    change(tmp_path / "config.json", quantization_config=quantization)
    told = []
    for way in ("with", "without"):
        command = [sys.executable, "-c", OTHER_GPTQ, way, str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
        assert result.returncode == 0, result.stderr
        told.append(result.stdout)
    assert told[0] == told[1] and told[0].startswith("transformers.")


def test_the_package_itself_needs_no_transformers() -> None:
    code = "import sys, qwartet, qwartet.llm, qwartet.compat.modeling; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=120)
    assert "hf" not in vars(qwartet) or "transformers" in sys.modules


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "^qwartet.hf needs transformers 5.3 or later; run: pip install 'qwartet\\[hf\\]'$"),
        ("4.57.1", "^transformers is 4.57.1, but qwartet.hf needs"),
        ("5.0.0rc2", "^transformers is 5.0.0rc2, but qwartet.hf needs"),
    ],
)
def test_a_missing_or_older_transformers_is_named(
    monkeypatch: pytest.MonkeyPatch, found: str | None, message: str
) -> None:
    def version(_name: str) -> str:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(requirement, "version", version)
    with pytest.raises(ImportError, match=message):
        requirement.check()
    for new in ("5.3.0", "5.24.0", "5.30.0.dev0"):
        monkeypatch.setattr(requirement, "version", lambda _name, new=new: new)
        requirement.check()


# Loading


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bf16": True, "fp16": True}, "only one of bf16, fp16 and fp32"),
        ({"bf16": True, "dtype": torch.float16}, r"bf16=True, but dtype is torch.float16"),
        ({"dtype": "int4"}, r"dtype is torch.int4; it must be one of"),
        ({"num_hidden_layers": 1}, "num_layers is 1, but the checkpoint's is 2"),
        ({"quantization_config": {"bits": 8}}, "asks for 8 bits, and the checkpoint has 4 bits"),
        ({"load_in_4bit": True}, "load_in_4bit is not supported"),
        ({"variant": "fp16"}, "variant is not supported"),
    ],
)
def test_arguments_that_would_matter_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load("gptq-int4", **arguments)


def test_dtypes_are_asked_for_in_every_form() -> None:
    assert load("gptq-int4").dtype == load("tiny-72b").dtype == torch.bfloat16
    for arguments in ({"fp16": True}, {"dtype": "float16"}, {"torch_dtype": torch.float16}):
        assert load("gptq-int4", **arguments).dtype == torch.float16
    model = load("gptq-int4", bf16=True, use_flash_attn=False, use_cache_quantization=False, low_cpu_mem_usage=True)
    assert model.dtype == torch.bfloat16 and (model.config.bf16, model.config.fp16) == (True, False)
    assert load("gptq-int4", quantization_config=transformers.GPTQConfig(bits=4)).dtype == torch.bfloat16
    for device_map in ("cpu", {"": "cpu"}, "auto", "sequential"):
        assert load("gptq-int4", device_map=device_map).device.type == "cpu"
    model, info = load("tiny-72b", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not model.training


def test_published_fields_are_attributes_and_may_be_changed() -> None:
    config = loaded("tiny-7b").config
    assert (config.seq_length, config.kv_channels, config.rotary_emb_base) == (128, 128, 10_000)
    assert (config.use_flash_attn, config.no_bias, config.onnx_safe) == ("auto", True, None)
    changed = load("tiny-7b", use_logn_attn=False, dtype="float32")
    assert changed.config.use_logn_attn is False
    old = QWenConfig(n_embd=256, n_layer=3, n_head=2, ffn_hidden_size=768, padded_vocab_size=1024, seq_length=9)
    assert (old.hidden_size, old.num_hidden_layers, old.vocab_size, old.intermediate_size) == (256, 3, 1024, 768)


def test_a_broken_checkpoint_is_an_error_and_no_random_weight(checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint()
    (directory / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"holds .* bytes of tensors"):
        load(directory)


@pytest.mark.parametrize("sharded", [True, False])
def test_missing_and_traversing_files_are_errors(checkpoint: Callable[..., Path], sharded: bool) -> None:
    directory = checkpoint(sharded=sharded)
    if sharded:
        index = directory / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        content["weight_map"] = dict.fromkeys(content["weight_map"], "../outside.safetensors")
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="not a plain name"):
            load(directory)
        return
    edit_json(directory / "config.json", {"num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match="missing tensors"):
        load(directory)
