"""Commands about the KV cache: what it did, replays of request traces, and configuration of inference engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of
from headrace.errors import WrongUsage

if TYPE_CHECKING:
    from headrace.explain.kv.recorded import RecordedPrompt

kv = typer.Typer(help="The KV cache: what it did, what a request trace asks of it, engines' settings.", no_args_is_help=True)
cli.add_typer(kv, name="kv", rich_help_panel="Explaining it")


@kv.command("replay")
def replay_trace(
    trace: Annotated[
        Path | None,
        typer.Argument(
            help="JSON lines with timestamp (ms), input_length, output_length and hash_ids, as Mooncake's; default: the answers"
            " that were generated here."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A preset (see `headrace size --list`), or a model's config.json.")] = "llama-3.1-8b",
    kv_type: Annotated[str, typer.Option(help="Type of the stored keys and values.")] = "fp16",
    capacity: Annotated[
        list[str] | None, typer.Option(metavar="SIZE", help="Capacity such as 500GB or 2TB; repeatable. Default: a curve.")
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory in front of the storage, such as 64GB.")] = "0",
    policy: Annotated[str, typer.Option(help="Which block goes first: lru or fifo.")] = "lru",
    ttl: Annotated[float | None, typer.Option(metavar="S", help="Drop blocks that were not used for so many seconds.")] = None,
    bandwidth: Annotated[str, typer.Option(metavar="SIZE", help="Bytes a second that the storage reads.")] = "10GB",
    latency: Annotated[float, typer.Option(metavar="MS", help="Milliseconds until the first byte.", min=0)] = 2.0,
    prefill: Annotated[
        float | None,
        typer.Option(metavar="TOKENS", help="Tokens a second that the model prefills; default: 40 % of an H100's peak.", min=0),
    ] = None,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a block in the trace.", min=1)] = 512,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Draw the curve: FILE.svg, .png, .pdf or .pptx.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw it on a dark ground.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a request trace against capacities: hit rate, bytes a second, seconds of prefill saved, and the curve."""
    from headrace.cli.render.kv import say_replays
    from headrace.explain.kv.recorded import trace_of
    from headrace.explain.kv.replay import POLICIES, KvStorage, capacities, prefixes, replay
    from headrace.explain.kv.trace import read_trace
    from headrace.explain.sizing.formulas import kv_bytes_per_token, prefill_rate
    from headrace.explain.sizing.models import TYPE_BYTES, model_of

    chosen = next((one for one in POLICIES if one == policy), None)
    if chosen is None:
        raise WrongUsage(f"There is no policy {policy!r}.", hint=f"Choose from {', '.join(POLICIES)}.")
    if kv_type not in TYPE_BYTES:
        raise WrongUsage(f"There is no type {kv_type!r}.", hint=f"Choose from {', '.join(TYPE_BYTES)}.")
    if ttl is not None and not ttl > 0:
        raise WrongUsage("--ttl must be greater than 0.")
    known = model_of(model)
    storage = KvStorage(
        kv_bytes_per_token(known, TYPE_BYTES[kv_type]),
        _size(bandwidth, "--bandwidth"),
        latency / 1e3,
        prefill_rate(known) if prefill is None else prefill,
    )
    requests = trace_of(_recorded(as_json)) if trace is None else read_trace(trace, block_tokens=block_tokens)
    bounds = sorted({_size(one, "--capacity") for one in capacity}) if capacity else capacities(requests, storage)
    if not bounds[0]:
        raise WrongUsage("--capacity must be greater than 0.")
    kept = _size(memory, "--memory")
    in_memory = prefixes(requests, storage, kept) if kept else None
    unbounded, *curve = [
        replay(requests, storage, capacity_bytes=bound, policy=chosen, ttl_s=ttl, in_memory=in_memory)
        for bound in (None, *bounds)
    ]
    if output is not None:
        from headrace.explain.diagram.draw import draw_scene
        from headrace.explain.diagram.theme import DARK, LIGHT
        from headrace.explain.kv.curve import curve_scene

        draw_scene(curve_scene(requests, known.name, curve, unbounded, palette=DARK if dark else LIGHT), output)
    if as_json:
        print_json(
            {
                "trace": {
                    "name": requests.name,
                    "sha256": requests.sha256,
                    "requests": len(requests.requests),
                    "seconds": requests.seconds,
                    "blocks": requests.blocks,
                    "distinct_blocks": requests.distinct_blocks,
                    "block_tokens": requests.block_tokens,
                    "input_tokens": requests.input_tokens,
                },
                "model": known.name,
                "kv_type": kv_type,
                "bytes_per_token": storage.bytes_per_token,
                "bandwidth": storage.bandwidth,
                "latency_s": storage.latency_s,
                "prefill_rate": storage.prefill_rate,
                "break_even_tokens": storage.break_even_tokens,
                "policy": policy,
                "ttl_s": ttl,
                "memory_bytes": kept,
                "capacities": [point.as_dict() for point in (*curve, unbounded)],
            }
        )
    else:
        say_replays(out, requests, known.name, storage, kept, [*curve, unbounded])
        if output is not None:
            out.print(f"Wrote {output}.", highlight=False)


@kv.command("config")
def engine_config(
    mount: Annotated[Path, typer.Option(help="Where the shared file system is mounted on the engine's servers.")],
    model: Annotated[str, typer.Option(help="A preset (see `headrace size --list`), or a model's config.json.")],
    engine: Annotated[str, typer.Option(help="vllm-lmcache, vllm-tiering, llm-d or dynamo.")] = "vllm-lmcache",
    served: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name for the engine; default: --model.")] = None,
    kv_type: Annotated[str, typer.Option(help="Type of the offloaded keys and values, which may exceed the GPU's.")] = "fp16",
    longest_prompt: Annotated[int, typer.Option(metavar="TOKENS", help="Tokens of the longest prompt.", min=1)] = 32_768,
    restores: Annotated[int, typer.Option(help="Prompts that are restored at the same time.", min=1)] = 4,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Host memory of a server for blocks; default: what the prompts need.")
    ] = None,
    capacity: Annotated[str | None, typer.Option(metavar="SIZE", help="Bound of the directory, over all servers.")] = None,
    gpu_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="A server's GPU memory for keys and values.")] = None,
    servers: Annotated[int, typer.Option(help="Servers that share the directory.", min=1)] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs of a server that share a model.", min=1)] = 1,
    integrity: Annotated[
        bool, typer.Option("--integrity/--no-integrity", help="Checksums, where the engine must choose between them and a bound.")
    ] = True,
    allow_local: Annotated[bool, typer.Option("--allow-local", help="Accept this machine's own disk.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an inference engine's configuration for a KV cache on a shared file system, and refuse its traps."""
    from headrace.cli.render.kv import say_config
    from headrace.explain.kv.engines import KvRequest, kv_config

    def optional(text: str | None, name: str) -> int | None:
        return None if text is None else _size(text, name)

    made = kv_config(
        engine,
        KvRequest(
            model=model,
            served_model=served or model,
            mount=mount,
            kv_type=kv_type,
            longest_prompt=longest_prompt,
            restores=restores,
            memory_bytes=optional(memory, "--memory"),
            capacity_bytes=optional(capacity, "--capacity"),
            gpu_bytes=optional(gpu_memory, "--gpu-memory"),
            servers=servers,
            gpus=gpus,
            integrity=integrity,
            allow_local=allow_local,
        ),
    )
    print_json(made.as_dict()) if as_json else say_config(out, err, made)


@kv.command("report")
def report(
    model: Annotated[str, typer.Option(help="The generator's shape: a preset, or a model's config.json.")] = "smollm2-135m",
    kv_type: Annotated[str, typer.Option(help="Type of the stored keys and values.")] = "fp16",
    as_json: AsJson = False,
) -> None:
    """Say what the KV cache did for the answers generated here: hit rate, bytes, seconds saved and lost, worth it or not."""
    from headrace.cli.render.kv import say_use
    from headrace.explain.kv.recorded import kv_use, worth
    from headrace.explain.sizing.formulas import kv_bytes_per_token
    from headrace.explain.sizing.models import TYPE_BYTES, model_of

    if kv_type not in TYPE_BYTES:
        raise WrongUsage(f"There is no type {kv_type!r}.", hint=f"Choose from {', '.join(TYPE_BYTES)}.")
    size = kv_bytes_per_token(model_of(model), TYPE_BYTES[kv_type])
    uses = kv_use(_recorded(as_json), size)
    if as_json:
        print_json({"bytes_per_token": size, "uses": [use.as_dict() for use in uses], "worth": worth(uses)})
    else:
        say_use(out, uses)


def _recorded(quiet: bool) -> list[RecordedPrompt]:
    from headrace.app import App
    from headrace.explain.kv.recorded import recorded_prompts

    with App(settings_of(), "kv", models=False, quiet=quiet) as app:
        found: list[RecordedPrompt] = app.runner.run(recorded_prompts)
    return found


def _size(text: str, name: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise WrongUsage(f"{name} takes a size, not {text!r}.", hint="For example 500GB or 2TiB.") from None
