"""Commands about the KV cache: what it did, replays of request traces, and configuration of inference engines."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of
from headrace.errors import WrongUsage

if TYPE_CHECKING:
    from headrace.explain.kv.engine_metrics import EngineTier
    from headrace.explain.kv.live import LiveOptions
    from headrace.explain.kv.recorded import RecordedPrompt
    from headrace.explain.kv.replay import KvStorage
    from headrace.explain.kv.trace import Trace

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
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="DIR|objects",
            help="Drive this directory, or the object store of the settings, with the trace's blocks, and measure.",
        ),
    ] = None,
    clients: Annotated[int, typer.Option(help="With --live: processes that share the blocks.", min=1, max=64)] = 2,
    seconds: Annotated[float, typer.Option(metavar="S", help="With --live: end after so many seconds.", min=1)] = 30.0,
    block_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="With --live: bytes of a block; default: those of the model's keys and values."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --live: the requests of one prefix in N; default: as many as fit the capacity.", min=1
        ),
    ] = None,
    keep_pages: Annotated[
        bool, typer.Option("--keep-page-cache", help="With --live: do not drop files from this machine's memory before reading.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Draw the curve: FILE.svg, .png, .pdf or .pptx.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw it on a dark ground.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a request trace against capacities: hit rate, bytes a second, seconds of prefill saved, and the curve.

    With --live, drive real storage with its blocks from several processes that share them: rates, latencies, and where from.
    """
    from headrace.cli.render.kv import say_replays
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
    if trace is None:
        from headrace.explain.kv.recorded import trace_of

        requests = trace_of(_recorded(as_json))
    else:
        requests = read_trace(trace, block_tokens=block_tokens)
    if live is not None:
        from headrace.explain.kv.live import LiveOptions

        if output is not None or len(capacity or ()) > 1 or memory != "0" or ttl is not None or policy != "lru":
            raise WrongUsage("--live goes with one --capacity, and without --memory, --policy, --ttl and --output.")
        bound = _size(capacity[0], "--capacity") if capacity else None
        if block_size is not None:
            storage = replace(storage, bytes_per_token=_size(block_size, "--block-size") / block_tokens)
        _drive(live, requests, known.name, storage, LiveOptions(clients, seconds, bound, not keep_pages, sample), as_json)
        return
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
        bool, typer.Option("--integrity/--no-integrity", help="Refuse what does not check blocks that it reads.")
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


@kv.command("known")
def known_faults(as_json: AsJson = False) -> None:
    """List what is known to be broken between engines, KV cache libraries and models, with what to do."""
    from headrace.cli.render.kv import say_faults
    from headrace.explain.kv.compatibility import KNOWN_FAULTS, READ

    if as_json:
        print_json({"read": READ, "faults": [one.as_dict() for one in KNOWN_FAULTS]})
    else:
        say_faults(out, KNOWN_FAULTS, READ)


@kv.command("report")
def report(
    model: Annotated[str, typer.Option(help="The generator's shape: a preset, or a model's config.json.")] = "smollm2-135m",
    kv_type: Annotated[str, typer.Option(help="Type of the stored keys and values.")] = "fp16",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of a cache to compare with.")] = "1GB",
    as_json: AsJson = False,
) -> None:
    """Say what the KV cache did: hit rate, bytes by tier, seconds saved and lost, worth it or not, also against memory alone."""
    from headrace.app import App
    from headrace.cli.render.kv import say_use
    from headrace.explain.kv.recorded import recorded_prompts, trace_of
    from headrace.explain.kv.use import kv_recorded, kv_use, memory_alone, worth
    from headrace.explain.sizing.formulas import kv_bytes_per_token
    from headrace.explain.sizing.models import TYPE_BYTES, model_of

    if kv_type not in TYPE_BYTES:
        raise WrongUsage(f"There is no type {kv_type!r}.", hint=f"Choose from {', '.join(TYPE_BYTES)}.")
    size = kv_bytes_per_token(model_of(model), TYPE_BYTES[kv_type])
    capacity = _size(memory, "--memory")
    with App(settings_of(), "kv", models=False, quiet=as_json) as app:
        figures, closed = app.runner.run(kv_recorded)
        prompts = app.runner.run(recorded_prompts)
    uses = kv_use(figures)
    alone = memory_alone(trace_of(prompts), uses, size, capacity) if prompts else None
    if as_json:
        print_json(
            {
                "bytes_per_token": size,
                "uses": [use.as_dict() for use in uses],
                "memory_alone": alone.as_dict() if alone else None,
                "closed": [one.as_dict() for one in closed],
                "worth": worth(uses, alone),
            }
        )
    else:
        say_use(out, uses, worth(uses, alone), closed)


@kv.command("revocations")
def revocations(
    document: Annotated[str | None, typer.Option(metavar="URI", help="Those of one document of the tenant.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Those of one tenant; with --document, by default the settings' tenant.")
    ] = None,
    most: Annotated[int, typer.Option(help="The newest so many.", min=1, max=10_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """Prove which blocks went when documents were deleted, changed or closed to readers; exits with 1 while any is left."""
    from headrace.app import App
    from headrace.cli.render.kv import say_revocations
    from headrace.documents.names import composed, document_id
    from headrace.documents.revoke import revocation_report

    settings = settings_of()
    named = None if document is None else document_id(tenant or settings.tenant, composed(document))
    with App(settings, "kv", models=False, quiet=as_json) as app:
        found = app.runner.run(revocation_report, whose=tenant, document_id=named, most=most)
    if as_json:
        print_json({"revocations": [one.as_dict() for one in found]})
    else:
        say_revocations(out, found)
    if not all(one.proven for one in found):
        raise typer.Exit(1)


@kv.command("reopen")
def reopen(
    model: Annotated[str, typer.Argument(help="A model version whose cache is closed, as `headrace kv report` names it.")],
) -> None:
    """Use a model's KV cache again that the canary closed; none of the blocks from before is found again."""
    from headrace.app import App
    from headrace.explain.kv.use import kv_reopen

    with App(settings_of(), "kv", models=False) as app:
        app.runner.run(kv_reopen, model=model)
    out.print(f"The KV cache of {model} is open again; its blocks are computed anew.", highlight=False)


@kv.command("watch")
def watch(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Engines: vLLM's address, or that of LMCache's server.")],
    once: Annotated[bool, typer.Option("--once", help="Print the totals since the engines started, and end.")] = False,
    interval: Annotated[float, typer.Option(metavar="S", help="Seconds between two looks.", min=0.2)] = 2.0,
    model: Annotated[
        str | None,
        typer.Option(help="For LMCache, which counts chunks: a preset or a model's config.json, to estimate bytes."),
    ] = None,
    kv_type: Annotated[str, typer.Option(help="Type of the stored keys and values.")] = "fp16",
    chunk_tokens: Annotated[int, typer.Option(help="LMCache's --chunk-size.", min=1)] = 256,
    record: Annotated[bool, typer.Option("--record", help="Count what is seen in the ledger of a run of this home.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the KV caches of production engines (vLLM, llm-d, LMCache): bytes, seconds and hits by tier, until Ctrl-C.

    --json implies --once.
    """
    from headrace.cli.render.kv import say_tiers, watch_tiers
    from headrace.core.run import recorded
    from headrace.explain.kv.engine_metrics import advice, count_into, engine_tiers, fetch_metrics, metrics_url, since
    from headrace.explain.sizing.formulas import kv_bytes_per_token
    from headrace.explain.sizing.models import TYPE_BYTES, model_of

    if kv_type not in TYPE_BYTES:
        raise WrongUsage(f"There is no type {kv_type!r}.", hint=f"Choose from {', '.join(TYPE_BYTES)}.")
    chunk = None if model is None else chunk_tokens * kv_bytes_per_token(model_of(model), TYPE_BYTES[kv_type])
    sources = [metrics_url(one) for one in dict.fromkeys(urls)]

    def look() -> list[EngineTier]:
        return [tier for url in sources for tier in engine_tiers(fetch_metrics(url), url, chunk_bytes=chunk)]

    first = look()
    with ExitStack() as stack:
        run = stack.enter_context(recorded("kv-watch", settings_of().home)) if record else None
        if once or as_json:
            if run is not None:
                count_into(run.ledger, first)
            if as_json:
                rows = [row for tier in first for row in tier.rows()]
                print_json({"tiers": [one.as_dict() for one in first], "rows": rows, "advice": advice(first)})
            else:
                say_tiers(out, first)
            return
        last = first

        def change() -> list[EngineTier]:
            nonlocal last
            now = look()
            changed, last = since(last, now), now
            if run is not None:
                count_into(run.ledger, changed)
            return now

        watch_tiers(out, err, first, change, interval)


def _drive(where: str, trace: Trace, model: str, storage: KvStorage, options: LiveOptions, as_json: bool) -> None:
    from headrace.app import App
    from headrace.cli.render.kv import say_live
    from headrace.core.progress import ProgressBars
    from headrace.explain.kv.live import directory_target, drive, object_target

    bars = ProgressBars(quiet=as_json)
    if where == "objects":
        with App(settings_of(), "kv-replay", models=False, quiet=as_json) as app:
            subjects = app.runner.record.provenance["subjects"]
            facts = next(one["facts"] for one in subjects if one["tier"] == "object")
            with object_target(app.runner.endpoints, facts) as target:
                measured = drive(trace, model, storage, target, options, bars)
            app.runner.record.ledger.fold(measured.entries)
    else:
        with directory_target(Path(where)) as target:
            measured = drive(trace, model, storage, target, options, bars)
    print_json(measured.as_dict()) if as_json else say_live(out, measured)


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
