"""English that reaches the command line but that `english_texts` cannot follow to where it is written.

Each line is a message as a user may meet it, or what stands in the gap of one; X, Y and Z are names of the user's.
"""

from __future__ import annotations

from qwartet.bench.targets import EVALUATION_TARGETS
from qwartet.models.generation_keys import BOUNDS, NEUTRAL
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.walls import MECHANISMS, NAMES, Sandbox, Wall

# Reasons that come from functions of several results, tables, exceptions and properties.
OF_THE_ROOMS = (
    *(f"X is Y; it must be {bounds}" for bounds in BOUNDS.values()),
    *(f"X: ignored: Y ({meaning})" for _, meaning in NEUTRAL.values()),
    "X: ignored: Y (an unknown key)", "X: ignored: Y (max_new_tokens overrides it)",
    "X: ignored: Y (an answer has at most 2 tokens)",
    *(f"X: is {kind}, not a file; replace it with the file itself" for kind in (
        "a directory", "a pipe", "a socket", "a device", "a link that leads nowhere"
    )),
    "X: zeros where weights should be: Y (all of it), Z (3 % to 5 %) and 3 more; download it again",
    "X: is of a Qwen-VL checkpoint (key 'visual'), which takes images; Qwartet runs text models only",
    "X: is of a Qwen-Audio checkpoint (key 'audio'), which takes audio; Qwartet runs text models only",
    "X: key 'Y' is missing; is this a first-generation Qwen?",
    "X: this is a base model (chat_format raw), which completes text but does not chat; use a -Chat checkpoint",
    "X: chat_format is missing in its generation_config.json, so it is unknown whether this is a chat model; if it is, "
    'set --chat-format chatml (in Python chat_format="chatml"), or add the key to that file, or generate',
    *(f"out of memory while {what}; free some memory, or send smaller requests" for what in (
        "queueing a prompt of 2 tokens", "compiling a structure", "computing 2 tokens of request 3"
    )),
    "X needs 3.0 GB, but only 2.0 GB are free there; choose another disk, or a smaller model",
    "X needs 3.0 GB, but only 2.0 GB are free there; free some, set Y to a larger disk, or choose a smaller model",
    "X: holds no pickled weights (*.bin); pass a checkpoint directory",
    "X: cannot be converted (this system cannot confine the process that reads it: network access cannot be removed)",
    "X: redirects to another address, but redirects are not followed; use that URL instead",
    # Downloads
    *(f"X: no such directory, and {what}; did you mean Y?" for what in (
        "could not reach Y (Z)", "could not reach Y through the proxy Z (timed out, 5 attempts)",
        "download from Y (set by HF_ENDPOINT) failed (status 503 Z, 5 attempts)",
    )),
    "X: could not reach Y (timed out); did you mean Z? Otherwise try again later, or fix or unset HF_ENDPOINT",
    "X: could not reach Y (timed out); did you mean Z? Otherwise partial downloads are kept: run the command again, "
    "set HF_ENDPOINT to a mirror (for example Z), or use --source modelscope (the name modelscope:OWNER/NAME)",
    "X: could not reach Y (timed out); try again later, or use --source hf (the name hf:OWNER/NAME)",
    "X: the hub's answer is longer than 3 bytes; check HF_ENDPOINT",
    # Kernels
    *(f"this benchmark measures the native kernels: {reason}" for reason in (
        "QWARTET_CPU_ISA is none",
        "X was not built; install a C++ compiler and run: python -m qwartet.kernels.cpu.build",
        "X was built from different sources; run: python -m qwartet.kernels.cpu.build", "X cannot be loaded (Y)",
        "X has a different structure layout; run: python -m qwartet.kernels.cpu.build",
    )),
    # Quantising
    "X: quantising one block needs 2.0 GiB of memory and 1.0 GiB are free on cpu (activations of the calibration 1.0 "
    "GiB, weights of a block 1.0 GiB, Hessian 1.0 GiB, GPTQ solver 1.0 GiB, activations of a batch 1.0 GiB, rotary "
    "tables 1.0 GiB); free some memory, lower --num-samples, or use a machine with more",
    *(f"X: is a .Y file, which is not supported; {hint}" for hint in (
        "unpack it: gunzip -k X", "convert it in Python: pandas.read_Y('X').to_json('Y', orient='records', lines=True)",
        "write it as JSON lines, or as plain text in a .txt file", "write ids as one tensor of a .safetensors file",
    )),
    *(f"X: {where}: is in no known form; its keys are none; supported keys are messages, conversations, instruction "
      "and output, prompt and completion, or text" for where in ("entry 3", "line 3", "the object")),
    *(f"X: {where}: {problem}; entry 4 (id 'Y'): turn 2, of X, is empty; fix or remove these: 2 of 8 samples are "
      "wrong" for where in ("entry 3", "line 3 (id 'Y')") for problem in (
        "turn 2, of X, follows another turn of X", "has no answer of the assistant to learn",
        "is a text, not a conversation", "its first answer begins after 4 tokens",
    )),
    *(f"X: lora training of 1.0 billion parameters needs 2.0 GB and activations, and 3.0 GB are free; {way}, or shard "
      "it over several GPUs (docs/finetune.md)" for way in (
        "use --method lora, or qlora on an Int4 checkpoint", "use --method qlora on an Int4 checkpoint, or a smaller "
        "model", "use a smaller model",
    )),
    *(f"X needs 3.0 GB, but only 2.0 GB are free there; free some space, {rest}or choose another disk" for rest in (
        "", "lower --save-total-limit, ",
    )),
    *(f"X: cannot be written (Y); {hint}" for hint in (
        "finished blocks are kept: fix this, then run the same command again to resume",
        "free some space there, or choose another directory",
    )),
    "X holds finished blocks of a run with other settings (Y 1, not 2, another Z); use those to resume, remove the "
    "directory to start over, or choose another target",
    # Vocabularies
    *(f"X: line 1: {reason}; download the file again from the model's source" for reason in (
        "3 bytes long; at most 2 are allowed", "contains non-ASCII bytes", "empty token", "not `base64 rank`: 'Y'",
    )),
    "X: line 1: starts with a byte order mark; save the file as plain ASCII without a BOM",
    "X: line 1: this is a git-lfs pointer, not the vocabulary; run `git lfs pull`",
    "X: line 1: ends with a carriage return; convert the line endings to LF (dos2unix)",
    "X: line 1: empty line; remove it",
    # Benchmarks
    "a request failed (Y: the connection was lost (Z)); start the server by hand to see why",
)  # fmt: skip
# What Python says of the contents of files and of addresses.
OF_PYTHON = (
    *(f"X: is not valid JSON ({reason}); download it again" for reason in (
        *(f"{what}: line 1 column 2 (char 3)" for what in (
            "Expecting value", "Expecting property name enclosed in double quotes", "Expecting ',' delimiter",
            "Expecting ':' delimiter", "Unterminated string starting at", "Invalid control character at", "Extra data",
        )),
        "maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        "maximum recursion depth exceeded",
    )),
    *(f"X: is not UTF-8 text ('utf-8' codec can't decode byte 0xff in position 3: {reason})" for reason in (
        "invalid start byte", "invalid continuation byte", "unexpected end of data",
    )),
    *(f"X: line 1: bad base64 ({reason}); download the file again from the model's source" for reason in (
        "Incorrect padding", "Only base64 data is allowed", "Excess data after padding",
    )),
    *(f"X: could not reach Y (Z: {reason}); try again later, or Z" for reason in (
        "[Errno 111] Connection refused", "The read operation timed out", "407 Proxy Authentication Required",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Y",
    )),
    *(f"the URL 'X' is not valid ({reason}); write it as http://127.0.0.1:8000" for reason in (
        "Port could not be cast to integer value as 'X'", "Port out of range 0-65535", "Invalid IPv6 URL",
        "'X' does not appear to be an IPv4 or IPv6 address",
    )),
)  # fmt: skip
# Facts and progress, which commands put together from values.
OF_COMMANDS = (
    *(f"A ({state}, 1 GiB)" for state in ("complete", "loadable", "partial")),
    "1 GiB total", "1 GiB available", "A not installed", "loads and answers (1 s, A)", "does not load", "not tried",
    "native avx512", "native avx512, int8 activations", "native avx512, exact activations",
    "reference (torch scaled_dot_product_attention)",
    "torch int4 (about half of the memory bandwidth; scales rounded to bf16); A",
    *(f"block 1 of 2{doing}" for doing in (
        ", done", ": done", ", writing the checkpoint", ", mlp.c_proj, batch 1 of 2",
        ", mlp.c_proj quantised", ", passing on, batch 1 of 2",
    )),
    "chat or base unknown (chat_format is not set); sampling defaults: greedy, repetition_penalty 1, up to 2 tokens",
    "45% of memory", "45% of int8", "45% of bf16", "3 failed: timed out", "remove A, commit 1: 2 GiB in /a? [y/N] ",
    "remove A: 2 GiB in /a? [y/N] ",
    *(f"also on this machine: commit 1 ({state}); --revision shows it" for state in ("complete", "loadable")),
    *(f"note: {remark}" for remark in (
        "the server does not support ignore_eos: answers end where the model ends them",
        "the server reports no usage: each chunk of text counts as a token",
        "the server accepts no token ids: prompts are sent as text, and their length is approximate",
        "1 answers were shorter than the requested 2 tokens",
        "some answers had no usage: their tokens were counted as chunks",
        "this client used 90% of a core and may limit the figures; reduce the load",
    )),
    *(f"out of memory ({what}); use a smaller or more quantised checkpoint, or reduce --max-model-len" for what in (
        "you tried to allocate 2 bytes", "CUDA out of memory",
    )),
)  # fmt: skip

# What tasks, rows, archives and two runs say of themselves, beside errors.
OF_EVALUATION = (
    *(f"X: not unpacked (the member 'Y' is {kind}); download the published archive again" for kind in (
        "a link", "a special file", "an encrypted file", "a file with an unusual compression",
    )),
    *(f"X: {kind}, not an archive; download the published archive again" for kind in (
        "a directory", "a pipe", "a socket", "a device", "a link that leads nowhere",
    )),
    "perplexity at 1,024", "bits per byte at 1,024", "length 1,024", "depth 50 %", "average of 3 tasks",
    "X was 1 and is 2", "only in /a", "no questions in common",
    "X: 1 prompt of 4,096 tokens", "X: 9 prompts of 4,096 tokens",
    "X: 1 prompt of 4,096 tokens, about 2 s each", "X: 9 prompts of 4,096 tokens, about 2 s each",
    "X: 9 prompts, 36,864 tokens", "X: 9 prompts, 36,864 tokens, at most 12 min",
    "X: left out 8,192, 16,384: longer than the model's context of 4,096 tokens",
    *(line for mechanism in MECHANISMS for stands in (True, False)
      for line in Sandbox(mechanism, tuple(Wall(name, stands, True) for name in NAMES)).describe(Limits())),
    "code-interpreter: X, Y not installed, so code that needs them fails; "
    "to install them: pip install 'qwartet[interpreter]'",
    "code-interpreter: no X or Y (GSM8K); math is left out",
    "code-interpreter: no X; visualization and general are left out",
    "code-interpreter: charts are not judged (gpt-4-vision-preview did that); executable means that the code runs",
    "code-interpreter: 2 of 9 files not found in X; code that reads them fails",
    "leval: tpo.jsonl, quality.jsonl not found; the average is of 4 tasks",
    "leval: documents are sent uncut; to cut them, pass --tokenizer and --max-model-len of the served model",
    "leval: 3 of 9 documents are cut to the model's context of 4,096 tokens",
    "X, Y, bf16 KV cache, 6,144 tokens of context: too long: the model's context is 4,096 tokens",
    "X, Y, bf16 KV cache, 6,144 tokens of context: does not fit: 5.00 GiB needed, 3.00 GiB free",
    "X, Y, bf16 KV cache, 1 token of context: out of memory: Z",
    "X, Y, bf16 KV cache, 1 token of context: failed: Z", "5.00 GiB needed",
    "row 1 of 4", "2 rows to measure", "1 row to measure",
    "2 rows to measure, about 12 min in total", "1 row to measure, about 40 s in total",
    "start 1 of 3", *(f"{target.what}: 0.5; reaches the target of 0.6" for target in EVALUATION_TARGETS),
)  # fmt: skip
