"""`qwartet bench throughput`: the engine under load, alone or compared with alternatives."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qwartet.cli.bench.figures import log, print_figures
from qwartet.cli.options import Activations, Head, JsonLine, KvCacheDtype, MaxNumSeqs, Threads, set_threads
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

NUM_VALID = 151_851  # tokens of the published vocabulary; random checkpoints have no other


def throughput(
    model: Annotated[str, typer.Argument(help="Checkpoint directory or hub id; `qwartet synth` makes a checkpoint.")],
    requests: Annotated[int, typer.Option(help="Number of requests.")] = 16,
    prompt: Annotated[int, typer.Option(help="Tokens per prompt.")] = 512,
    generate: Annotated[int, typer.Option(help="Tokens to generate per request.")] = 128,
    arrivals: Annotated[
        Literal["all", "fixed", "poisson"],
        typer.Option(help="When requests arrive: all at once, evenly spaced, or at random."),
    ] = "all",
    rate: Annotated[float, typer.Option(help="Requests per second, for fixed and poisson.")] = 1.0,
    shared_prefix: Annotated[int, typer.Option(help="Tokens of a prefix that all prompts share.")] = 0,
    task: Annotated[
        Literal["random", "edit", "decoys"],
        typer.Option(help="edit: answers repeat the prompt; decoys: they only seem to; both need synth --counts."),
    ] = "random",
    compare: Annotated[
        Literal["sequential", "raw", "prefix", "speculation", "adapter"] | None,
        typer.Option(
            help="Compare with sequential requests, raw kernels, prefix cache misses, no speculation or a LoRA adapter."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of a comparison.")] = 3,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 64,
    speculation: Annotated[
        Literal["off", "prompt-lookup"], typer.Option(help="Speculative decoding; it cannot predict random text.")
    ] = "off",
    prefix_caching: Annotated[bool, typer.Option(help="Reuse the KV cache of shared prefixes.")] = True,
    max_num_seqs: MaxNumSeqs = EngineConfig.max_num_seqs,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Maximum tokens per step.", show_default="512")
    ] = EngineConfig.max_num_batched_tokens,
    activations: Activations = None,
    head: Head = "auto",
    kv_cache_dtype: KvCacheDtype = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Random seed of prompts and arrivals.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure the engine under load.

    It reports tokens per second, time to first token and time between tokens. Decoding is greedy, and every request
    generates all its tokens.
    """
    if min(requests, generate, rounds, lora_rank) < 1 or prompt < 2:
        raise SettingError("requests, generate, rounds and lora-rank must be at least 1, prompt at least 2")
    set_threads(threads)
    from qwartet.bench import engine_comparisons
    from qwartet.bench.latency import peak_rss_bytes
    from qwartet.bench.throughput import serve
    from qwartet.bench.workload import arrival_times, make_prompts
    from qwartet.engine.sampling_params import SamplingParams
    from qwartet.models.load import load_model

    network = load_model(resolve(model), dtype="bf16", device="cpu", activations=activations, head=head)
    num_valid = min(network.config.vocab_size, NUM_VALID)
    config = EngineConfig(
        max_model_len=min(prompt + generate + 1, network.config.position.max_length),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_dtype=kv_cache_dtype,
        enable_prefix_caching=prefix_caching,
        speculation=speculation,
    )
    prompts = make_prompts(task, requests, prompt, generate, num_valid, shared=shared_prefix, seed=seed)
    params = SamplingParams(temperature=0, max_tokens=generate, ignore_eos=True)
    setting = engine_comparisons.Setting(network, config, prompts, params, num_valid, rounds, lora_rank)
    warm_up = make_prompts("random", 1, prompt, generate, num_valid, shared=0, seed=seed + 1)
    serve(setting.engine(), warm_up, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True), [0.0])
    if compare is None:
        engine = setting.engine()
        report = serve(engine, prompts, params, arrival_times(arrivals, requests, rate, seed)).to_dict()
        report |= {"drafted": engine.speculation.num_drafted, "accepted": engine.speculation.num_accepted}
    else:
        report = {"compare": compare, **engine_comparisons.compare(compare, setting, log)}
    report |= {
        "prompt": prompt, "generate": generate, "arrivals": arrivals, "task": task, "shared_prefix": shared_prefix,
        "kv_cache_dtype": kv_cache_dtype, "kernels": dict(network.backend.names), "peak_rss_bytes": peak_rss_bytes(),
    }  # fmt: skip
    print_figures(report, as_json)
