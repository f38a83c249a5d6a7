"""`qwartet bench throughput`: the engine under load, and against other ways of doing the same."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qwartet.cli.bench.figures import log, print_figures
from qwartet.cli.options import Activations, Head, JsonLine, KvCacheDtype, Threads, set_threads
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

NUM_VALID = 151_851  # tokens of the published vocabulary; random checkpoints have no other


def throughput(
    model: Annotated[str, typer.Argument(help="Directory of a checkpoint, or hub id; `qwartet synth` makes one.")],
    requests: Annotated[int, typer.Option(help="How many.")] = 16,
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 512,
    generate: Annotated[int, typer.Option(help="Tokens that each writes.")] = 128,
    arrivals: Annotated[
        Literal["all", "fixed", "poisson"], typer.Option(help="All at once, evenly spaced, or at random.")
    ] = "all",
    rate: Annotated[float, typer.Option(help="Requests a second, for fixed and poisson.")] = 1.0,
    shared_prefix: Annotated[int, typer.Option(help="Tokens that all prompts begin with.")] = 0,
    task: Annotated[
        Literal["random", "edit", "decoys"],
        typer.Option(help="edit: repeats its prompt; decoys: only seem to; both for checkpoints of synth --counts."),
    ] = "random",
    compare: Annotated[
        Literal["sequential", "raw", "prefix", "speculation"] | None,
        typer.Option(help="Instead: in turns against one after the other, the kernels alone, a miss, or none."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of a comparison.")] = 3,
    speculation: Annotated[
        Literal["off", "prompt-lookup"], typer.Option(help="Off unless asked for: random text cannot be predicted.")
    ] = "off",
    prefix_caching: Annotated[bool, typer.Option(help="Whether requests find what others have computed.")] = True,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that run at once.")] = EngineConfig.max_num_seqs,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step.")
    ] = EngineConfig.max_num_batched_tokens,
    activations: Activations = None,
    head: Head = "auto",
    kv_cache_dtype: KvCacheDtype = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure the engine under load.

    It reports tokens per second, time to first token and time between tokens. Decoding is greedy, and every request
    generates all its tokens.
    """
    if min(requests, generate, rounds) < 1 or prompt < 2:
        raise SettingError("requests, generate and rounds must be at least 1, prompt at least 2")
    set_threads(threads)
    from qwartet.bench.engine_comparisons import Setting
    from qwartet.bench.engine_comparisons import compare as compare_engine
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
    setting = Setting(network, config, prompts, params, num_valid, rounds)
    warm_up = make_prompts("random", 1, prompt, generate, num_valid, shared=0, seed=seed + 1)
    serve(setting.engine(), warm_up, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True), [0.0])
    if compare is None:
        engine = setting.engine()
        report = serve(engine, prompts, params, arrival_times(arrivals, requests, rate, seed)).to_dict()
        report |= {"drafted": engine.speculation.num_drafted, "accepted": engine.speculation.num_accepted}
    else:
        report = {"compare": compare, **compare_engine(compare, setting, log)}
    report |= {
        "prompt": prompt, "generate": generate, "arrivals": arrivals, "task": task, "shared_prefix": shared_prefix,
        "kv_cache_dtype": kv_cache_dtype, "kernels": dict(network.backend.names), "peak_rss_bytes": peak_rss_bytes(),
    }  # fmt: skip
    print_figures(report, as_json)
