"""Replays of a request trace and engines' configuration for the terminal."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table

from headrace.cli.render.results import counted
from headrace.errors import Unavailable
from headrace.explain.diagram.format import human_bytes, human_s
from headrace.explain.kv.curve import enough
from headrace.terminal import harmless

if TYPE_CHECKING:  # a replay needs none of them, and they take a second to import
    from headrace.explain.kv.compatibility import KnownFault
    from headrace.explain.kv.engine_metrics import EngineTier
    from headrace.explain.kv.engines import KvConfig
    from headrace.explain.kv.live import LiveReplay
    from headrace.explain.kv.replay import KvStorage, Replayed
    from headrace.explain.kv.trace import Trace
    from headrace.explain.kv.use import KvUse
    from headrace.models.kv.closing import ClosedCache
    from headrace.models.kv.revocation import Revocation


def say_replays(console: Console, trace: Trace, model: str, storage: KvStorage, memory: int, replays: Sequence[Replayed]) -> None:
    """Print what was replayed, a row per capacity, and what follows from it; the last replay is that without a bound."""
    console.print(
        f"{trace.name}: {counted(len(trace.requests), 'request')} in {human_s(trace.seconds)}, {trace.input_tokens:,} tokens of "
        f"prompts, {trace.distinct_blocks:,} of {trace.blocks:,} blocks distinct.\n"
        f"{model}: {storage.bytes_per_token:,.0f} B a token, prefills {storage.prefill_rate:,.0f} tokens/s; the storage reads "
        f"{human_bytes(round(storage.bandwidth))}/s after {storage.latency_s * 1e3:g} ms"
        f"{f', behind {human_bytes(memory)} of memory' if memory else ''}.",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("capacity", "blocks", "tokens", "read/s", "peak", "written/s", "peak", "saved"):
        table.add_column(name, justify="right")
    for one in replays:
        table.add_row(
            "no bound" if one.capacity_bytes is None else human_bytes(one.capacity_bytes),
            f"{one.block_hit_rate:.1%}",
            f"{one.token_hit_rate:.1%}",
            *(human_bytes(round(rate)) for rate in (one.read_mean, one.read_peak, one.write_mean, one.write_peak)),
            human_s(one.saved_s) if one.saved_s else "-",
        )
    console.print(table)
    console.print(_conclusion(storage, replays), highlight=False)


def say_live(console: Console, measured: LiveReplay) -> None:
    """Print what storage did under a trace, and where that was measured."""
    origin = measured.provenance
    host, storage, of = origin["host"], origin["storage"], origin["trace"]
    name = of["name"] if of["sample_one_in"] == 1 else f"{of['name']}, one prefix in {of['sample_one_in']:,},"
    console.print(
        f"{name} on {storage['where']}: {counted(measured.requests, 'request')} by {counted(measured.clients, 'client')} in"
        f" {human_s(measured.seconds)}, blocks of {human_bytes(origin['block_bytes'])} ({origin['model']}),"
        f" {human_bytes(origin['capacity_bytes'])} at most.",
        highlight=False,
        markup=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("blocks", "bytes", "bytes/s", "p50", "p95"):
        table.add_column(name, justify="right")
    for name, count, size, rate, middle, high in (
        (
            "read",
            measured.blocks_read,
            measured.bytes_read,
            measured.read_bytes_per_s,
            measured.read_p50_ms,
            measured.read_p95_ms,
        ),
        (
            "written",
            measured.blocks_written,
            measured.bytes_written,
            measured.write_bytes_per_s,
            measured.write_p50_ms,
            measured.write_p95_ms,
        ),
    ):
        table.add_row(name, f"{count:,}", human_bytes(size), human_bytes(round(rate)), human_s(middle / 1e3), human_s(high / 1e3))
    console.print(table)
    console.print(
        f"Found: {measured.block_hit_rate:.1%} of blocks (a replay of the same requests one by one:"
        f" {measured.predicted_block_hit_rate:.1%}), {measured.tokens_per_s:,.0f} tokens/s read instead of computed;"
        f" a request's prefix in {human_s(measured.restore_p50_ms / 1e3)} (p50),"
        f" {human_s(measured.restore_p95_ms / 1e3)} (p95).\n"
        f"While reading: {human_bytes(round(measured.load_bytes_per_s))}/s. Clients used {measured.processor_cores:.1f} of"
        f" {counted(host['cores'], 'core')}. Evicted: {measured.evicted:,}. Damaged: {measured.damaged:,}.",
        highlight=False,
    )
    if not measured.blocks_read:
        console.print(
            "! No block was read: none that was asked for again was still there. Give more --capacity, or another --sample.",
            style="yellow",
            highlight=False,
        )
    if measured.failed:
        console.print(f"! Failed: {measured.failed:,} times, first: {harmless(measured.fault)}", style="yellow", highlight=False)
    facts = ", ".join(f"{name} {value}" for name, value in storage.items() if name not in ("tier", "where"))
    console.print(
        f"From {host['name']}: {host['processor']}, {host['memory_gib']:g} GiB, {host['system']}. Storage: {facts}.\n"
        f"Page cache: {measured.page_cache}.",
        highlight=False,
        markup=False,
    )


def say_tiers(console: Console, tiers: Sequence[EngineTier]) -> None:
    """Print the totals of engines' tiers, and what they say is wrong."""
    if not tiers:
        console.print(_NO_TIERS, highlight=False)
        return
    from headrace.explain.kv.engine_metrics import advice

    console.print(_tiers(tiers, tiers, 0.0))
    for sentence in advice(tiers):
        console.print(f"! {harmless(sentence)}", style="yellow", highlight=False)


def watch_tiers(
    console: Console, notes: Console, first: Sequence[EngineTier], look: Callable[[], Sequence[EngineTier]], interval: float
) -> None:
    """Show a table that is renewed until Ctrl-C; without a terminal, print one at each look. A lost engine is waited for."""
    from rich.live import Live

    before, at = first, time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(suppress(KeyboardInterrupt))
        shown: Callable[[RenderableType], object]
        if console.is_terminal:
            shown = stack.enter_context(Live(_tiers(first, first, 0.0) if first else _NO_TIERS, console=console)).update
        else:
            shown = console.print
        away = False
        while True:
            time.sleep(interval)
            try:
                now = look()
            except Unavailable as error:
                if not away:
                    notes.print(f"! {error.message} Waiting for it.", style="yellow", highlight=False)
                away = True
                continue
            away, took = False, time.monotonic() - at
            shown(_tiers(before, now, took) if now else _NO_TIERS)
            before, at = now, time.monotonic()


_NO_TIERS = (
    "No metrics of a KV cache on storage here: vLLM has them with TieringOffloadingSpec, LMCache in multiprocess mode, after the"
    " first request."
)


def _tiers(before: Sequence[EngineTier], now: Sequence[EngineTier], seconds: float) -> Table:
    """Totals of now, and rates since before."""
    from headrace.explain.kv.engine_metrics import since

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("engine", "model", "tier"):
        table.add_column(name, overflow="fold")
    for name in ("hits", "read", "/s", "written", "/s", "held", "failed"):
        table.add_column(name, justify="right", overflow="fold")
    several = len({one.source for one in now}) > 1
    for one, change in zip(now, since(before, now), strict=True):

        def rate(moved: int | None) -> str:
            return "-" if moved is None or not seconds else f"{human_bytes(round(moved / seconds))}"

        mark = "~" if one.estimated else ""
        table.add_row(
            harmless(f"{one.engine} {one.source}" if several else one.engine),
            harmless(one.model) or "-",
            f"{harmless(one.name)}{f' ({one.tier})' if one.tier else ''}",
            "-" if one.hit_rate is None else f"{one.hit_rate:.1%} of {one.lookups:,} {one.unit}",
            "-" if one.read_bytes is None else f"{mark}{human_bytes(one.read_bytes)}",
            rate(change.read_bytes),
            "-" if one.write_bytes is None else f"{mark}{human_bytes(one.write_bytes)}",
            rate(change.write_bytes),
            "-" if one.held_bytes is None else human_bytes(one.held_bytes),
            f"{one.failures:,}",
        )
    return table


def say_use(console: Console, uses: Sequence[KvUse], worth: str, closed: Sequence[ClosedCache] = ()) -> None:
    """Print a row per tenant and model version, what is closed, and whether the cache has paid."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tenant", overflow="fold")
    table.add_column("model", overflow="fold")
    for name in ("answers", "tokens", "restored", "read", "written", "saved", "lost", "from"):
        table.add_column(name, justify="right", overflow="fold")
    for use in uses:
        table.add_row(
            harmless(use.tenant),
            harmless(use.version.partition("@")[0]),
            f"{use.answers:,}",
            f"{use.tokens:,}",
            f"{use.hit_rate:.0%}",
            *(_by_tier(use, direction) for direction in ("read", "write")),
            "-" if use.saved_s is None else f"{use.saved_s:.1f} s",
            f"{use.lost_s:.1f} s",
            "-" if use.break_even_tokens is None else f"{max(1, round(use.break_even_tokens)):,}",
        )
    if uses:
        console.print(table)
        for use in uses:
            if refused := _refusals(use):
                whose = f"{harmless(use.tenant)}, {harmless(use.version.partition('@')[0])}"
                console.print(f"{whose}: {refused}.", highlight=False)
    for one in closed:
        model = harmless(one.model)
        console.print(
            f"! The KV cache of {model} is closed since {(one.closed_at or '')[:19]} UTC: {harmless(one.reason)}."
            f" Answers are right, only slower. Find out why, then: headrace kv reopen {model}",
            style="yellow",
            highlight=False,
        )
    console.print(worth if uses else "No answer has used the KV cache here.", highlight=False)


def say_revocations(console: Console, found: Sequence[Revocation]) -> None:
    """Print a row per revocation, and whether all that was revoked is gone."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("document", "tenant", "why", "noted (UTC)", "done after", "blocks", "left"):
        table.add_column(name, overflow="fold", justify="right" if name in ("blocks", "left") else "left")
    for one in found:
        table.add_row(
            harmless(one.document) or "all of the tenant",
            harmless(one.tenant),
            one.reason,
            one.noted_at[:19].replace("T", " "),
            "not yet" if one.seconds is None else f"{one.seconds:.1f} s",
            f"{len(one.blocks):,}",
            f"{sum(not block['gone'] for block in one.blocks):,}",
        )
    if not found:
        console.print("No KV block was revoked here.", highlight=False)
        return
    console.print(table)
    left = sum(not one.proven for one in found)
    going_on = f"{counted(left, 'revocation')} not done yet: run `headrace index` or `headrace up`."
    console.print(going_on if left else "All of these blocks are gone.", highlight=False)


def _by_tier(use: KvUse, direction: str) -> str:
    moved = [f"{human_bytes(one[direction])} {tier}" for tier, one in sorted(use.bytes_by_tier.items()) if one[direction]]
    return ", ".join(moved) or "-"


def _refusals(use: KvUse) -> str:
    """What was not loaded or stored and why, and what was damaged."""
    refused = [(name.split(":"), count) for name, count in sorted(use.decisions.items()) if ":no:" in name]
    done = {"load": "loaded", "store": "stored"}
    said = [f"not {done[action]} {count:,} times: {reason}" for (action, _, reason), count in refused]
    return "; ".join([*said, *(f"{counted(count, 'block')} {reason}" for reason, count in sorted(use.damaged.items()))])


def say_config(console: Console, notes: Console, made: KvConfig) -> None:
    """Print a configuration as a shell script, and beside it, on standard error, what to know about it."""
    for name, value in made.environment.items():
        console.print(f"export {name}={shlex.quote(value)}", soft_wrap=True, highlight=False, markup=False)
    for command in made.commands:
        console.print(f"{command}\n", soft_wrap=True, highlight=False, markup=False)
    for fact in made.facts:
        notes.print(fact, highlight=False)
    for warning in made.warnings:
        notes.print(f"! {warning}", style="yellow", highlight=False)
    if made.known:
        notes.print(f"Known faults: {', '.join(made.known)}; see `headrace kv known`.", highlight=False)


def say_faults(console: Console, faults: Sequence[KnownFault], read: str) -> None:
    """Print known faults, a row each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("issue", "engine", "versions", "models", "what happens", "what to do", "state"):
        table.add_column(name, overflow="fold")
    for one in faults:
        engines = ", ".join(one.engines) or "-"
        table.add_row(one.name, engines, one.versions, one.models, one.happens, one.remedy, one.state)
    console.print(table)
    console.print(f"Issues as read in {read}; none was tried here.", highlight=False)


def _conclusion(storage: KvStorage, replays: Sequence[Replayed]) -> str:
    *bounded, unbounded = replays
    length = storage.break_even_tokens
    if length is None:
        return "Not worth it: this storage reads keys and values more slowly than the model computes them."
    sentence = f"Loading is faster than prefilling from {counted(max(1, round(length)), 'token')} on."
    if not unbounded.token_hit_rate:
        return f"{sentence} No two prompts share a prefix: a KV cache saves nothing."
    found = enough(bounded, unbounded)
    if found is None or found.capacity_bytes is None:
        return f"{sentence} None of these capacities has nine tenths of the possible hits."
    sentence += f" {human_bytes(found.capacity_bytes)} have nine tenths of the hits of a cache without a bound."
    if found.read_peak > storage.bandwidth:
        peak, bandwidth = human_bytes(round(found.read_peak)), human_bytes(round(storage.bandwidth))
        sentence += f" Its busiest ten seconds ask for {peak}/s, more than the {bandwidth}/s that this storage reads."
    return sentence
