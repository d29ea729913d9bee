"""Replays of a request trace and engines' configuration for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from headrace.cli.render.results import counted
from headrace.explain.diagram.format import human_bytes, human_s
from headrace.explain.kv.curve import enough
from headrace.explain.kv.engines import KvConfig
from headrace.explain.kv.recorded import KvUse, worth
from headrace.explain.kv.replay import KvStorage, Replayed
from headrace.explain.kv.trace import Trace
from headrace.terminal import harmless


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


def say_use(console: Console, uses: Sequence[KvUse]) -> None:
    """Print a row per tenant and model version, and whether the cache has paid."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tenant", overflow="fold", min_width=8)
    table.add_column("model", overflow="fold", min_width=12)
    for name in ("answers", "tokens", "restored", "read", "saved", "lost", "from"):
        table.add_column(name, justify="right", no_wrap=True)
    for use in uses:
        table.add_row(
            harmless(use.tenant),
            harmless(use.version.partition("@")[0]),
            f"{use.answers:,}",
            f"{use.tokens:,}",
            f"{use.restored_tokens / use.tokens:.0%}",
            human_bytes(use.read_bytes),
            "-" if use.saved_s is None else f"{use.saved_s:.1f} s",
            f"{use.lost_s:.1f} s",
            "-" if use.break_even_tokens is None else f"{max(1, round(use.break_even_tokens)):,}",
        )
    if uses:
        console.print(table)
    console.print(worth(uses) if uses else "No generated answer is recorded here.", highlight=False)


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
