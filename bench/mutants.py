"""mutants: bugs put into a copy of the code on purpose, each of which the tests named beside it must notice.

python -m bench.mutants [ID ...]

A mutant is one piece of source text and what stands there instead. The repository is copied to a temporary folder, the named
tests are run there once as they are, then for each mutant with the copy changed: a mutant is killed if each of its tests fails.
Prints a table to standard error and JSON to standard output; exit 1 if a test fails without a mutant, a mutant survives or its
source text is not there once.

To add one: an entry in `MUTANTS`, which is sorted by `id`. `text` must be in the file exactly once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copy2
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_S = 300.0
"""A mutant's tests may take so long; all tests together without a mutant ten times that."""


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, `text` replaced by `instead`. `tests` are the pytest node ids that must fail with it."""

    id: str
    file: str
    text: str
    instead: str
    bug: str
    tests: tuple[str, ...]


# Of the first 29, C2 (a step too small to change a page) and R3 (ddof=1 in the combination, which changes no order) are
# equivalent to the code and left out.
MUTANTS = (
    Mutant(
        "A1",
        "headrace/storage/tables/iceberg/append.py",
        "            self._table.discard(table, [one.file_path for one in files])  # known not to be in any snapshot\n",
        "",
        "The files of a commit that was refused stay.",
        ("tests/integration/test_maintenance.py::test_an_append_is_given_up_before_its_commit_and_never_behind_it",),
    ),
    Mutant(
        "A2",
        "headrace/storage/tables/iceberg/append.py",
        "require_kept(now, files, self._seen, fence, self._table.store, self._table.meter)",
        "pass",
        "A file that maintenance may have removed is committed.",
        ("tests/integration/test_maintenance.py::test_a_writer_slower_than_the_grace_is_refused_and_leaves_no_hole",),
    ),
    Mutant(
        "A3",
        "headrace/storage/tables/iceberg/append.py",
        "if not table.spec().is_unpartitioned():",
        "if False:",
        "Rows of every partition go into one file that is of none.",
        ("tests/integration/test_head_boundaries.py::test_rows_land_in_a_table_that_another_tool_has_partitioned",),
    ),
    Mutant(
        "B1",
        "headrace/landing/backlog.py",
        "_NEAR = 0.5",
        "_NEAR = 0.9",
        "`headrace head` warns when nine tenths of the retention are over.",
        ("tests/integration/test_head_boundaries.py::test_the_backlog_counts_estimates_and_warns_at_half_the_retention",),
    ),
    Mutant(
        "B2",
        "headrace/landing/backlog.py",
        "end = first + rows if rows < _SAMPLE else counted_end(topic, partition, max(span.end, first + rows))",
        "end = first + rows",
        "A lag beyond a thousand is told as a thousand.",
        ("tests/integration/test_head_boundaries.py::test_the_backlog_counts_estimates_and_warns_at_half_the_retention",),
    ),
    Mutant(
        "B3",
        "headrace/landing/backlog.py",
        "size = round(size / rows * lag)",
        "size = round(size)",
        "The bytes of a long backlog are those of its first thousand records.",
        ("tests/integration/test_head_boundaries.py::test_the_backlog_counts_estimates_and_warns_at_half_the_retention",),
    ),
    Mutant(
        "B4",
        "headrace/landing/backlog.py",
        "fetched.record(0).at_ms",
        "fetched.record(len(fetched) - 1).at_ms",
        "The age of the backlog is that of a later record.",
        ("tests/integration/test_head_boundaries.py::test_the_backlog_counts_estimates_and_warns_at_half_the_retention",),
    ),
    Mutant(
        "C1",
        "headrace/documents/pieces.py",
        "_PATH_SHARE = 0.25",
        "_PATH_SHARE = 0.75",
        "The heading path may take most of a chunk.",
        ("tests/unit/test_documents_pieces.py::test_a_heading_path_that_is_too_long_loses_its_outer_parts_first",),
    ),
    Mutant(
        "C3",
        "headrace/documents/chunk.py",
        "begin + piece.start + len(piece.body) - 1) - 1",
        "begin + piece.start + len(piece.body) + 2) - 1",
        "A piece that ends with its page is said to stand on the next one too.",
        (
            "tests/unit/test_documents_chunk.py::test_a_piece_has_the_pages_it_stands_on_and_no_other",
            "tests/unit/test_documents_chunk.py::test_a_page_is_known_to_the_letter",
        ),
    ),
    Mutant(
        "C4",
        "headrace/registry/canary.py",
        "share * len(theirs) >= _EXPECTED * (1 - share)",
        "share * len(theirs) > _EXPECTED * (1 - share)",
        "A challenger that gave none of the five answers that were to be its is promoted.",
        ("tests/unit/test_registry_canary.py::test_silence_counts_from_when_five_answers_were_to_be_its",),
    ),
    Mutant(
        "C5",
        "headrace/registry/canary.py",
        "size >= min(_LEAST, wanted)]",
        "size > min(_LEAST, wanted)]",
        "Five judged answers are not looked at.",
        ("tests/unit/test_registry_canary.py::test_with_fewer_than_five_judged_answers_only_the_last_look_is_taken",),
    ),
    Mutant(
        "C6",
        "headrace/documents/chunk.py",
        "first = bisect_right(starts, begin + piece.start) - 1",
        "first = bisect_right(starts, begin + piece.start - 1) - 1",
        "A piece that begins with its page is said to stand on the one before too.",
        ("tests/unit/test_documents_chunk.py::test_a_piece_has_the_pages_it_stands_on_and_no_other",),
    ),
    Mutant(
        "D1",
        "headrace/storage/ledger.py",
        "tally.latency[bucket] += ops",
        "tally.latency[bucket] += 1",
        "A batch of n operations counts once in the histogram.",
        ("tests/unit/test_storage_ledger.py::test_operations_counted_together_weigh_as_if_each_was_counted",),
    ),
    Mutant(
        "D2",
        "headrace/storage/ledger.py",
        "tally.max_s = max(tally.max_s, seconds)",
        "tally.max_s = max(tally.max_s, seconds * ops)",
        "The slowest of n operations is n times as slow.",
        ("tests/unit/test_storage_ledger.py::test_the_slowest_of_operations_counted_together_is_as_slow_as_each_of_them",),
    ),
    Mutant(
        "D3",
        "headrace/storage/ledger.py",
        "seconds=seconds, ops=ops, tenant=tenant, estimated=estimated)",
        "seconds=seconds, tenant=tenant, estimated=estimated)",
        "What one answer moved counts a batch as one operation.",
        ("tests/unit/test_storage_ledger.py::test_a_watch_and_another_ledger_get_a_batch_as_it_was_counted",),
    ),
    Mutant(
        "D4",
        "headrace/storage/ledger.py",
        "            if seen >= wanted:",
        "            if seen > wanted:",
        "A percentile is that of one operation more.",
        ("tests/unit/test_storage_ledger.py::test_the_95th_percentile_is_the_least_that_95_of_100_do_not_exceed",),
    ),
    Mutant(
        "D5",
        "headrace/storage/meter.py",
        "            ops=ops,\n            tenant",
        "            tenant",
        "A meter counts a batch as one operation.",
        ("tests/unit/test_storage_ledger.py::test_a_watch_and_another_ledger_get_a_batch_as_it_was_counted",),
    ),
    Mutant(
        "E1",
        "headrace/explain/diagram/headline.py",
        'f"{human_bytes(moved.bytes(store=store, direction=Direction.READ))} were read from {called}, "',
        'f"{human_bytes(moved.bytes(store=store))} were read from {called}, "',
        "What was read counts what was written, too.",
        ("tests/unit/test_explain_diagram.py::test_the_headline_is_the_first_claim_the_rows_support",),
    ),
    Mutant(
        "E2",
        "headrace/cli/render/results.py",
        "table.add_row(tier, mark + human_bytes(read), mark + human_bytes(written))",
        "table.add_row(tier, mark + human_bytes(written), mark + human_bytes(read))",
        "Read and written are swapped in the table by tier.",
        ("tests/unit/test_cli_render_results.py::test_by_tier_what_was_read_is_under_read_and_what_was_written_under_written",),
    ),
    Mutant(
        "E3",
        "headrace/explain/diagram/diagram.py",
        'p95_ms=max(before.p95_ms, float(row["p95_ms"])),',
        'p95_ms=float(row["p95_ms"]),',
        "A flow's p95 is that of the last tenant.",
        ("tests/unit/test_explain_diagram.py::test_rows_of_all_tenants_are_summed_and_the_slowest_p95_kept",),
    ),
    Mutant(
        "E4",
        "headrace/explain/diagram/headline.py",
        "lambda moved: 2 <= times(moved) < 1000,",
        "lambda moved: 2 < times(moved) < 1000,",
        "Read twice is not read again.",
        ("tests/unit/test_explain_diagram.py::test_the_headline_is_the_first_claim_the_rows_support",),
    ),
    Mutant(
        "E5",
        "headrace/cli/render/results.py",
        'return f"{of.mean:.3f} ({of.low:.3f}–{of.high:.3f})"',
        'return f"{of.mean:.3f} ({of.high:.3f}–{of.low:.3f})"',
        "The ends of an interval are swapped.",
        ("tests/unit/test_cli_render_results.py::test_measures_are_shown_with_their_intervals_low_end_first",),
    ),
    Mutant(
        "E6",
        "headrace/cli/render/results.py",
        "more = self._events[commit.topic] - before",
        "more = self._events[commit.topic]",
        "A lander that follows tells again what it told.",
        (
            "tests/unit/test_cli_render_results.py::test_a_lander_that_follows_tells_what_came_since_its_last_line_and_all_at_the_end",
        ),
    ),
    Mutant(
        "E7",
        "headrace/cli/render/results.py",
        "{seen.champion:.3f}, challenger",
        "{seen.challenger:.3f}, challenger",
        "The champion is shown with the challenger's score.",
        ("tests/unit/test_cli_render_results.py::test_a_round_says_who_is_champion_and_who_challenger",),
    ),
    Mutant(
        "E8",
        "headrace/cli/render/results.py",
        'counted(done.chunked.chunks, "chunk")',
        'counted(done.embedded.chunks, "chunk")',
        "Embeddings are told as chunks.",
        ("tests/unit/test_cli_render_results.py::test_what_was_indexed_is_told_step_by_step_and_what_could_not_be_read_below",),
    ),
    Mutant(
        "E9",
        "headrace/cli/render/results.py",
        'answer["timings_ms"].get("first_token", 0.0), answer["timings_ms"].get("total", 0.0)',
        'answer["timings_ms"].get("total", 0.0), answer["timings_ms"].get("first_token", 0.0)',
        "The time to the first token and that of the whole answer are swapped.",
        ("tests/unit/test_cli_render_results.py::test_below_an_answer_stand_its_sources_versions_and_times",),
    ),
    Mutant(
        "F1",
        "headrace/lineage/forget/rows.py",
        '_VERDICT_WORDS = ("reason", "correction", "extra")',
        '_VERDICT_WORDS = ("reason", "correction")',
        "What a newer producer says in a verdict is not forgotten.",
        ("tests/unit/test_lineage_forget_rows.py::test_words_of_a_document_are_emptied_wherever_they_are[feedback extra]",),
    ),
    Mutant(
        "F2",
        "headrace/lineage/forget/rows.py",
        '"logprobs", "extra")',
        '"logprobs")',
        "What a newer producer says of an answer is not forgotten.",
        ("tests/unit/test_lineage_forget_rows.py::test_words_of_a_document_are_emptied_wherever_they_are[interactions extra]",),
    ),
    Mutant(
        "F3",
        "headrace/lineage/forget/rows.py",
        '_EVENT_WORDS = ("attributes", "extra")',
        '_EVENT_WORDS = ("attributes",)',
        "What a newer producer says of a document is not forgotten.",
        (
            "tests/unit/test_lineage_forget_rows.py"
            "::test_words_of_a_document_are_emptied_wherever_they_are[document-events extra]",
        ),
    ),
    Mutant(
        "G1",
        "headrace/training/gate.py",
        "if rest.questions and rest.difference <= 0:",
        "if rest.questions and rest.difference < 0:",
        "A challenger that is just as good without one user is no alarm.",
        ("tests/unit/test_training_evaluate.py::test_alarms",),
    ),
    Mutant(
        "G2",
        "headrace/training/gate.py",
        "if one.questions >= gate.tenant_questions",
        "if one.questions > gate.tenant_questions",
        "A tenant with just as many questions as are asked for may get worse.",
        ("tests/unit/test_training_evaluate.py::test_alarms",),
    ),
    Mutant(
        "G3",
        "headrace/core/statistics.py",
        "np.quantile(means, [0.025, 0.975])",
        "np.quantile(means, [0.05, 0.95])",
        "Intervals, the gate's among them, are of 90 %.",
        (
            "tests/unit/test_core_statistics.py::test_the_bootstrap_is_near_the_normal_interval_of_many",
            "tests/unit/test_core_statistics.py::test_the_interval_is_of_95_percent",
        ),
    ),
    Mutant(
        "G4",
        "headrace/training/gate.py",
        "abs(change) > gate.length",
        "abs(change) >= gate.length",
        "A change that is just allowed is an alarm.",
        ("tests/unit/test_training_evaluate.py::test_what_gives_no_alarm",),
    ),
    Mutant(
        "G5",
        "headrace/training/gate.py",
        "if grounded and grounded.high < 0",
        "if grounded and grounded.high <= 0",
        "An interval that ends at zero is an alarm.",
        ("tests/unit/test_training_evaluate.py::test_what_gives_no_alarm",),
    ),
    Mutant(
        "G6",
        "headrace/training/evaluate.py",
        "* len(pairs) < count]",
        "* len(pairs) <= count]",
        "A user with just the share that is allowed is left out in turn.",
        (
            "tests/unit/test_training_evaluate.py::test_verdicts_of_users_with_more_than_the_share_of_the_questions_are_left_out_in_turn",
        ),
    ),
    Mutant(
        "G7",
        "headrace/training/gate.py",
        "if evaluation.confidence < gate.confidence:",
        "if evaluation.confidence <= gate.confidence:",
        "The asked confidence itself is not enough.",
        ("tests/unit/test_training_evaluate.py::test_the_asked_confidence_itself_is_enough",),
    ),
    Mutant(
        "H1",
        "headrace/storage/tables/iceberg/core.py",
        '_PROPERTY = "headrace.property."',
        '_PROPERTY = "headrace.position."',
        "Marks that an older version left are not read.",
        ("tests/golden/test_old_home.py::test_every_table_has_the_rows_and_properties_that_were_committed",),
    ),
    Mutant(
        "H2",
        "headrace/storage/metadata.py",
        "secret.encode(), hashlib.sha256)",
        "secret.encode(), hashlib.sha512)",
        "Keys that an older version made open nothing.",
        ("tests/golden/test_old_home.py::test_keys_open_what_they_opened_and_waiting_lines_of_the_audit_are_written",),
    ),
    Mutant(
        "I2",
        "headrace/simulate/evaluate.py",
        "ranked.setdefault(document_of[source.document], float(-len(ranked)))",
        "ranked[document_of[source.document]] = float(-len(ranked) - 1)",
        "A document stands where its worst chunk does.",
        ("tests/unit/test_simulate_evaluation.py::test_a_document_stands_where_its_best_chunk_does",),
    ),
    Mutant(
        "I3",
        "headrace/simulate/evaluate.py",
        "if not answer.refused and answer.groundedness is not None",
        "if answer.groundedness is not None",
        "Groundedness counts refusals, too.",
        (
            "tests/unit/test_simulate_evaluation.py::test_the_best_known_answer_counts_and_what_is_refused_says_nothing_of_groundedness",
        ),
    ),
    Mutant(
        "I4",
        "headrace/simulate/evaluate.py",
        "return max((float(measure(text, known))",
        "return min((float(measure(text, known))",
        "The worst known answer counts.",
        (
            "tests/unit/test_simulate_evaluation.py::test_the_best_known_answer_counts_and_what_is_refused_says_nothing_of_groundedness",
        ),
    ),
    Mutant(
        "J1",
        "headrace/training/data/join.py",
        "order by level desc, votes desc, document_id",
        "order by votes desc, level desc, document_id",
        "A question is about the document that was found most often, not the one it liked.",
        ("tests/unit/test_training_data.py::test_a_question_is_about_what_it_liked_else_cites_else_found_first",),
    ),
    Mutant(
        "J2",
        "headrace/training/data/join.py",
        "filter (counts and not up) as disliker",
        "filter (not up) as disliker",
        "An example is of a user who has thought better of it.",
        ("tests/unit/test_training_data.py::test_an_example_is_of_the_user_whose_newest_verdict_counts_and_agrees",),
    ),
    Mutant(
        "J3",
        "headrace/training/data/join.py",
        "filter (counts and up) as liker",
        "filter (up) as liker",
        "An example is of a user who has thought better of it.",
        ("tests/unit/test_training_data.py::test_an_example_is_of_the_user_whose_newest_verdict_counts_and_agrees",),
    ),
    Mutant(
        "J4",
        "headrace/training/data/join.py",
        "filter (counts and correction is not null) as correction",
        "filter (correction is not null) as correction",
        "A correction that was taken back is learned from.",
        ("tests/unit/test_training_data.py::test_a_correction_that_its_user_took_back_teaches_nothing",),
    ),
    Mutant(
        "J5",
        "headrace/training/data/join.py",
        "coalesce(bool_or(simulated) filter (counts), false)",
        "coalesce(bool_or(simulated), false)",
        "An example counts as simulated for a verdict that does not count.",
        ("tests/unit/test_training_data.py::test_an_example_is_of_the_user_whose_newest_verdict_counts_and_agrees",),
    ),
    Mutant(
        "K1",
        "headrace/models/kv/cache.py",
        "        self._used(keys[:restored], written=restored - waiting)\n",
        "",
        "What is found is not noted as used: the KV cache gives up what was written first.",
        ("tests/unit/test_models_kv_cache.py::test_what_was_used_last_stays_whenever_it_was_written",),
    ),
    Mutant(
        "K2",
        "headrace/models/server/generator.py",
        'weights=f"{self.weights}+{digest}"',
        'weights=f"{self.weights}+{version}"',
        "Blocks of the KV cache are told apart by a version's name, not by its weights.",
        ("tests/unit/test_models_kv_cache.py::test_versions_share_nothing",),
    ),
    Mutant(
        "K3",
        "headrace/models/kv/cache.py",
        "if total + wanted <= most:",
        "if total + wanted < most:",
        "The KV cache gives something up although all of it just fits.",
        ("tests/unit/test_models_kv_cache.py::test_a_limit_is_filled_to_the_byte_and_not_beyond",),
    ),
    Mutant(
        "K4",
        "headrace/models/kv/cache.py",
        "self._use(keys[:written])",
        "self._use(keys[restored // BLOCK : written])",
        "Of a prefix that is written on, only what is new counts as used.",
        ("tests/unit/test_models_kv_cache.py::test_a_prefix_that_is_written_on_is_used_from_its_beginning",),
    ),
    Mutant(
        "K5",
        "headrace/models/kv/index.py",
        "            if _unsettled(run, tenant, wanted):\n",
        "            if False:\n",
        "An answer that was begun before its document was closed stores the KV of its prompt after.",
        ("tests/unit/test_models_kv_revocation.py::test_an_answer_that_was_begun_before_stores_nothing_after",),
    ),
    Mutant(
        "K6",
        "headrace/models/kv/cache.py",
        "        for block in revoked:\n            self._blocks.delete(block)\n",
        "",
        "A KV block that is revoked while it is stored stays.",
        ("tests/unit/test_models_kv_revocation.py::test_a_block_that_is_revoked_while_it_is_stored_does_not_stay",),
    ),
    Mutant(
        "K7",
        "headrace/models/kv/revocation.py",
        "                _journal(run, revocation, blocks)\n",
        "",
        "The proof of a revocation does not name the blocks.",
        ("tests/unit/test_models_kv_revocation.py::test_the_blocks_of_a_document_go_and_the_report_names_each",),
    ),
    Mutant(
        "K8",
        "headrace/models/kv/economy.py",
        "if self._latency.value + size * self._load.value",
        "if size * self._load.value",
        "Latency does not count when a prefix is loaded.",
        ("tests/unit/test_models_kv_economy.py::test_it_pays_where_bytes_over_bandwidth_and_latency_take_less_than_the_prefill",),
    ),
    Mutant(
        "K9",
        "headrace/models/kv/blocks.py",
        "        self._files.read_each(buffer, names, most, use)\n",
        "        self._buffers.append(buffer)\n        self._files.read_each(buffer, names, most, use)\n",
        "A KV block is read into memory that a read which was given up may still write to.",
        ("tests/security/test_kv_blocks.py::test_a_read_that_ends_too_late_writes_into_no_block_that_is_read_by_then",),
    ),
    Mutant(
        "K10",
        "headrace/models/kv/prompt_memory.py",
        "        weakref.finalize(owner, self._unused.append, piece).atexit = False\n",
        "        self._unused.append(piece)\n",
        "Keys and values that wait to be stored are overwritten by the next prompt.",
        ("tests/unit/test_models_kv_prompt_memory.py::test_values_that_wait_to_be_stored_are_no_longer_changed",),
    ),
    Mutant(
        "L1",
        "headrace/landing/land.py",
        "if record.offset >= upto[record.partition]]",
        "if record.offset > upto[record.partition]]",
        "The first dead letter of all, or after a burial, is dropped.",
        ("tests/integration/test_head_boundaries.py::test_the_first_record_of_all_and_the_first_after_a_burial_are_buried_too",),
    ),
    Mutant(
        "L2",
        "headrace/landing/land.py",
        "                        writing.result()  # raises if that block was not committed; then this one must not be\n",
        "",
        "A block is committed though the one before it was not.",
        ("tests/integration/test_head_boundaries.py::test_a_block_is_not_committed_where_the_one_before_it_was_not",),
    ),
    Mutant(
        "N1",
        "headrace/training/cutoff.py",
        "if made is None or any(_reached(made, place) > limit",
        "if made is None or any(_reached(made, place) >= limit",
        "Weights that had landed just up to the event are not begun from.",
        (
            "tests/unit/test_training_cutoff.py::test_weights_that_had_landed_just_up_to_the_event_are_begun_from_and_those_that_had_landed_it_are_not",
        ),
    ),
    Mutant(
        "N2",
        "headrace/training/cutoff.py",
        'return not version or clean(int(version.removeprefix("v")))',
        "return True",
        "Weights count as clean whatever those had learned that they began from.",
        ("tests/unit/test_training_cutoff.py::test_weights_are_no_cleaner_than_those_they_began_from",),
    ),
    Mutant(
        "N3",
        "headrace/training/cutoff.py",
        'f"at >= {quoted(at)}"',
        'f"at > {quoted(at)}"',
        "What happened in the same moment as a poisoned event is learned from.",
        (
            "tests/unit/test_training_cutoff.py::test_of_its_own_partition_the_event_and_of_others_what_is_no_older_than_it_is_left_out",
        ),
    ),
    Mutant(
        "N4",
        "headrace/training/cutoff.py",
        "else 1 << 62",
        "else 0",
        "A topic that was made anew since counts as never read.",
        ("tests/unit/test_training_cutoff.py::test_a_head_that_was_made_anew_had_been_read_to_its_end_before",),
    ),
    Mutant(
        "N5",
        "headrace/training/trainer.py",
        "return (step + 1) / warm if step < warm",
        "return step / warm if step < warm",
        "The first step moves nothing.",
        (
            "tests/unit/test_training_trainer.py::test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing_over_the_rest",
        ),
    ),
    Mutant(
        "O1",
        "headrace/scheduler/scheduler.py",
        "count >= self._settings.verdicts",
        "count > self._settings.verdicts",
        "A round waits for one verdict more than the settings say.",
        ("tests/integration/test_loop_decisions.py::test_a_round_starts_at_so_many_verdicts_and_not_one_before",),
    ),
    Mutant(
        "O2",
        "headrace/scheduler/scheduler.py",
        "order.index(self._after) + 1 if",
        "order.index(self._after) if",
        "The recipe that was trained last is first again.",
        ("tests/integration/test_loop_decisions.py::test_recipes_take_turns_however_many_verdicts_come",),
    ),
    Mutant(
        "O3",
        "headrace/scheduler/scheduler.py",
        "enough and model not in self._canaries",
        "enough",
        "A model on trial is trained on meanwhile.",
        ("tests/integration/test_loop_decisions.py::test_a_model_on_trial_is_not_trained_meanwhile_and_others_are",),
    ),
    Mutant(
        "O4",
        "headrace/scheduler/scheduler.py",
        "if not ours and age < _OTHERS:",
        "if not ours and age < timedelta():",
        "A round that another command is making is made at the same time.",
        ("tests/integration/test_loop_decisions.py::test_a_round_that_another_command_began_is_left_to_it",),
    ),
    Mutant(
        "O5",
        "headrace/scheduler/scheduler.py",
        "                self._tried[recipe] = landed\n",
        "",
        "A recipe that found nothing to learn tries the same again and again.",
        ("tests/integration/test_loop_decisions.py::test_a_recipe_that_finds_nothing_to_learn_waits_for_new_verdicts",),
    ),
    Mutant(
        "O6",
        "headrace/scheduler/scheduler.py",
        "if before != behind:",
        "if before is None:",
        "A verdict that another command has learned from starts a round early.",
        ("tests/integration/test_loop_decisions.py::test_a_verdict_that_another_command_learned_from_starts_no_round_early",),
    ),
    Mutant(
        "O7",
        "headrace/scheduler/scheduler.py",
        "due_at is not None and datetime.now(UTC) >= due_at",
        "False",
        "Few verdicts wait for ever.",
        (
            "tests/integration/test_loop_decisions.py::"
            "test_a_round_starts_with_fewer_verdicts_once_the_oldest_has_waited_long_enough",
        ),
    ),
    Mutant(
        "O8",
        "headrace/retry.py",
        "first_s * 2.0 ** min(failures - 1, 32)",
        "first_s",
        "What fails again and again is tried as often as ever.",
        ("tests/unit/test_scheduler_status.py::test_each_failure_in_a_row_is_waited_for_twice_as_long_up_to_an_hour",),
    ),
    Mutant(
        "P1",
        "headrace/training/manifest.py",
        'rounds.put_if_absent(f"{name(manifest.round)}.json", _bytes(manifest))',
        'rounds.put(f"{name(manifest.round)}.json", _bytes(manifest))',
        "A round is committed over another process's.",
        ("tests/unit/test_training_manifest.py::test_a_round_is_committed_once_and_the_same_commit_again_is_no_other",),
    ),
    Mutant(
        "P2",
        "headrace/training/promote.py",
        "if manifest.plan(rounds, plan.round) != plan:",
        "if False:",
        "A round is committed whose plan was taken back.",
        ("tests/unit/test_training_promote.py::test_a_round_whose_plan_stands_no_more_releases_and_commits_nothing",),
    ),
    Mutant(
        "Q1",
        "headrace/training/recipes/reranker.py",
        "*disliked[: settings.negatives]]",
        "*disliked[-settings.negatives :]]",
        "The re-ranker learns from the easiest passages.",
        (
            "tests/unit/test_training_recipes_reranker.py::test_a_question_is_learned_from_once_with_its_best_liked_passage_and_the_hardest_that_were_not",
        ),
    ),
    Mutant(
        "Q2",
        "headrace/training/recipes/reranker.py",
        "[liked[0], ",
        "[liked[-1], ",
        "The re-ranker learns from the liked passage that was found last.",
        (
            "tests/unit/test_training_recipes_reranker.py::test_a_question_is_learned_from_once_with_its_best_liked_passage_and_the_hardest_that_were_not",
        ),
    ),
    Mutant(
        "Q3",
        "headrace/training/recipes/reranker.py",
        "for part in lists]).mean(), {}",
        "for part in lists]).sum(), {}",
        "The loss grows with the batch.",
        (
            "tests/unit/test_training_recipes_reranker.py::test_the_loss_is_the_cross_entropy_of_the_liked_passage_among_its_own_questions_passages",
        ),
    ),
    Mutant(
        "Q4",
        "headrace/training/recipes/reranker.py",
        "lists = torch.split(logits, [len(shown) for _, shown in items])",
        "lists = torch.split(logits, [len(logits)])",
        "A question's passages are ranked among those of the others.",
        (
            "tests/unit/test_training_recipes_reranker.py::test_the_loss_is_the_cross_entropy_of_the_liked_passage_among_its_own_questions_passages",
        ),
    ),
    Mutant(
        "R2",
        "headrace/answering/rerank.py",
        "scored.ranking or BY_LOGITS",
        "scored.ranking",
        "A re-ranker that names no weight has no say.",
        ("tests/unit/test_answering_rerank.py::test_a_foreign_reranker_without_a_weight_has_the_whole_say",),
    ),
    Mutant(
        "R4",
        "headrace/answering/rerank.py",
        'Reranked(as_retrieved, note=f"the re-ranker did not answer, so retrieval order is kept: {error.message}")',
        "Reranked(as_retrieved)",
        "An answer does not say that the re-ranker was left out.",
        (
            "tests/unit/test_answering_rerank.py::test_a_reranker_that_fails_leaves_retrievals_order_and_says_so",
            "tests/unit/test_answering_rerank.py::test_a_reranker_that_is_slow_leaves_retrievals_order_and_says_so",
        ),
    ),
    Mutant(
        "R6",
        "headrace/models/client.py",
        "if was and was != served:",
        "if False:",
        "Logits of two versions of the re-ranker are put together.",
        ("tests/unit/test_models_client.py::test_logits_of_two_versions_are_not_put_together",),
    ),
    Mutant(
        "R7",
        "headrace/training/ranker.py",
        "return self.folds[fold_of(unit, len(self.folds))]",
        "return self.ranking",
        "A question is judged by weights that saw it.",
        ("tests/unit/test_training_ranker.py::test_no_weights_saw_the_questions_that_they_judge",),
    ),
    Mutant(
        "R8",
        "headrace/models/served_ranking.py",
        "weights is None or weights.reranker != reranker",
        "weights is None",
        "A ranking orders by the logits of a re-ranker that it was not fitted with.",
        ("tests/unit/test_answering_rerank.py::test_a_ranking_counts_for_the_reranker_that_it_was_fitted_with",),
    ),
    Mutant(
        "S1",
        "headrace/documents/sources/permissions.py",
        "own = own & self._entered(folder.parent)",
        "self._entered(folder.parent)",
        "A folder above that nobody may enter closes nothing below it.",
        ("tests/unit/test_documents_sources_permissions.py::test_a_folder_that_some_may_enter_closes_what_is_below_it",),
    ),
    Mutant(
        "S2",
        "headrace/documents/sources/permissions.py",
        "masked = bits & mask if tag in (_USER, _OWNING_GROUP, _GROUP) else bits",
        "masked = bits",
        "An ACL's entries count without its mask.",
        ("tests/unit/test_documents_sources_permissions.py::test_entries_of_an_acl_count_under_its_mask",),
    ),
    Mutant(
        "S3",
        "headrace/documents/put.py",
        "        if any(fewer.values()):\n",
        "        if False:\n",
        "A document is closed only once its event is indexed.",
        ("tests/integration/test_sources.py::test_a_change_of_permissions_relabels_without_embedding_and_closes_at_once",),
    ),
    Mutant(
        "S4",
        "headrace/documents/put.py",
        "            and file.uri not in unparsed\n",
        "",
        "A document that changes back before it is parsed stays as it was in between.",
        ("tests/integration/test_sources.py::test_a_document_that_changes_back_before_it_is_parsed_is_as_it_was",),
    ),
    Mutant(
        "S5",
        "headrace/documents/sources/notified.py",
        "            self._begin()  # before the listing, which then has all that was sent until now\n",
        "",
        "Notifications are never read.",
        ("tests/integration/test_sources.py::test_notifications_say_which_objects_to_look_at",),
    ),
    Mutant(
        "S6",
        "headrace/scheduler/triggers/queue.py",
        "OR (state = '{RUNNING}' AND due <= :now))",
        ")",
        "What a killed process was delivering is never delivered.",
        (
            "tests/integration/test_trigger_queue.py::test_what_is_not_settled_in_time_is_taken_again",
            "tests/integration/test_triggers.py::test_a_service_that_is_killed_again_and_again_delivers_every_event",
        ),
    ),
    Mutant(
        "S7",
        "headrace/documents/pii.py",
        "    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0",
        "    return True",
        "Any sixteen digits are a card number.",
        ("tests/unit/test_documents_pii.py::test_random_digits_are_rarely_cards",),
    ),
    Mutant(
        "T1",
        "headrace/training/checkpoint.py",
        "any(key == found.training.checkpoint for found in committed)",
        "key == list(committed)[-1].training.checkpoint",
        "The last checkpoint of an older round goes.",
        (
            "tests/unit/test_training_tidy.py::test_a_training_that_a_manifest_names_keeps_its_last_checkpoint_and_its_weights_and_any_other_goes",
        ),
    ),
    Mutant(
        "T2",
        "headrace/training/checkpoint.py",
        "        checkpoints.delete(key)\n",
        "        pass\n",
        "Nothing goes.",
        (
            "tests/unit/test_training_tidy.py::test_a_training_that_a_manifest_names_keeps_its_last_checkpoint_and_its_weights_and_any_other_goes",
        ),
    ),
    Mutant(
        "T3",
        "headrace/training/checkpoint.py",
        "rpartition('/')[0]}/\")",
        "rpartition('/')[0]}\")",
        "A training whose name begins like that of a named one stays.",
        (
            "tests/unit/test_training_tidy.py::test_a_training_that_a_manifest_names_keeps_its_last_checkpoint_and_its_weights_and_any_other_goes",
        ),
    ),
    Mutant(
        "T4",
        "headrace/training/checkpoint.py",
        "newest[-1].committed) - _GRACE",
        "newest[-1].committed)",
        "What another process has just begun goes.",
        ("tests/unit/test_training_tidy.py::test_what_may_be_of_a_round_under_way_stays",),
    ),
    Mutant(
        "T5",
        "headrace/training/checkpoint.py",
        "if not numbers or manifest.plan(rounds, numbers[-1] + 1) is not None:",
        "if not numbers:",
        "The training of a round under way goes.",
        ("tests/unit/test_training_tidy.py::test_what_may_be_of_a_round_under_way_stays",),
    ),
    Mutant(
        "U1",
        "headrace/cli/questions.py",
        "answer = app.answers.search(question, tenant=settings.tenant, user=user(), readers=principals or (), filters=chosen)",
        "answer = app.answers.search(question, tenant=settings.tenant, user=user(), filters=chosen)",
        "`search --as` finds what anybody finds.",
        ("tests/integration/test_cli_success.py::test_index_says_what_it_did_and_everybody_opens_what_was_closed",),
    ),
    Mutant(
        "U2",
        "headrace/cli/training.py",
        "app.training.round(recipe, before=before, canary=canary)",
        "app.training.round(recipe, canary=canary)",
        "`train --before` learns from everything.",
        ("tests/integration/test_cli_success.py::test_a_round_is_made_tried_promoted_and_rolled_back",),
    ),
    Mutant(
        "U3",
        "headrace/cli/documents.py",
        "readers = [] if everybody else reader or None",
        "readers = reader or None",
        "`index --everybody` leaves closed what was closed.",
        ("tests/integration/test_cli_success.py::test_index_says_what_it_did_and_everybody_opens_what_was_closed",),
    ),
    Mutant(
        "U4",
        "headrace/simulate/evaluate.py",
        "user=_USER, simulated=True, record=False)",
        "user=_USER, simulated=True)",
        "What an evaluation asks is recorded, and trained on.",
        ("tests/integration/test_cli_success.py::test_eval_answers_measures_what_was_said_and_what_was_declined",),
    ),
    Mutant(
        "V1",
        "headrace/storage/vectors/search.py",
        "for rank, name in enumerate(dense, 1)}",
        "for rank, name in enumerate(dense)}",
        "Ranks of the dense search begin at 0.",
        ("tests/unit/test_storage_fuse.py::test_scores_are_the_sums_of_reciprocal_ranks",),
    ),
    Mutant(
        "V2",
        "headrace/storage/vectors/handles.py",
        "FTS(stem=True, remove_stop_words=True, with_position=False)",
        "FTS(stem=False, remove_stop_words=True, with_position=False)",
        "Full-text search finds whole words only.",
        ("tests/integration/test_cli_success.py::test_eval_retrieval_finds_what_it_always_found",),
    ),
    Mutant(
        "V3",
        "headrace/simulate/evaluate.py",
        "ranked.setdefault(document_of[source.document], float(-len(ranked)))",
        "ranked.setdefault(document_of[source.document], float(len(ranked)))",
        "The evaluation takes the last document for the best.",
        ("tests/integration/test_cli_success.py::test_eval_retrieval_finds_what_it_always_found",),
    ),
    Mutant(
        "W1",
        "headrace/api/uploads.py",
        "        if len(self._uploads) >= _UPLOADS_AT_ONCE:",
        "        if False:",
        "Any number of documents is taken in at once.",
        ("tests/unit/test_api_middleware.py::test_four_documents_are_taken_in_at_once_whoever_sends_them",),
    ),
    Mutant(
        "W2",
        "headrace/api/middleware.py",
        "async with asyncio.timeout(_BODY_S) as limit:",
        "async with asyncio.timeout(None) as limit:",
        "A body may take for ever to come.",
        ("tests/unit/test_api_middleware.py::test_a_body_has_a_minute_to_come",),
    ),
    Mutant(
        "W3",
        "headrace/api/admission.py",
        "return (taken - level) * self._seconds / most",
        "return taken * self._seconds / most",
        "Whoever is sent away is told to stay away longer than needed.",
        (
            "tests/unit/test_api_middleware.py::test_a_refusal_says_to_the_moment_when_the_next_may_come",
            "tests/unit/test_api_middleware.py::test_a_key_opens_until_its_tenant_has_sent_enough",
        ),
    ),
    Mutant(
        "W4",
        "headrace/api/uploads.py",
        "                self._uploads.remove(upload)",
        "                pass",
        "An upload keeps its place for ever.",
        (
            "tests/unit/test_api_middleware.py::test_a_tenant_sends_two_documents_at_once_and_the_third_is_sent_away",
            "tests/unit/test_api_middleware.py::test_an_upload_that_fails_gives_its_place_back",
        ),
    ),
    Mutant(
        "W5",
        "headrace/models/http.py",
        '        if message["type"] == "http.disconnect":\n            raise ClientDisconnect\n',
        "",
        "What came of a document whose sender left is taken for all of it.",
        ("tests/unit/test_api_middleware.py::test_half_a_body_is_no_body",),
    ),
    Mutant(
        "W6",
        "headrace/api/admission.py",
        "(own or len(self._inside) >= 4 * self._most)",
        "own",
        "Any number of tenants gets a place.",
        (
            "tests/unit/test_api_admission.py::"
            "test_tenants_that_have_no_place_get_one_until_there_are_four_times_as_many_as_there_should_be",
        ),
    ),
    Mutant(
        "W7",
        "headrace/api/admission.py",
        "own + before >= most:",
        "own + before > most:",
        "A tenant has one question more under way than it may.",
        ("tests/unit/test_api_admission.py::test_a_tenant_gets_as_many_places_as_its_limit_and_not_one_more",),
    ),
    Mutant(
        "W8",
        "headrace/api/documents.py",
        "if count + 1 > limits.documents:",
        "if count + 1 >= limits.documents:",
        "A tenant stores one document less than it may.",
        ("tests/integration/test_answers.py::test_a_tenant_stores_as_much_as_it_may_to_the_byte_and_to_the_document",),
    ),
    Mutant(
        "W9",
        "headrace/api/documents.py",
        "if used_bytes + size > limits.stored_bytes:",
        "if used_bytes + size >= limits.stored_bytes:",
        "A tenant stores one byte less than it may.",
        ("tests/integration/test_answers.py::test_a_tenant_stores_as_much_as_it_may_to_the_byte_and_to_the_document",),
    ),
    Mutant(
        "W10",
        "headrace/api/uploads.py",
        "        if own >= _UPLOADS_OF_ONE:",
        "        if False:",
        "One tenant's documents take all the room.",
        ("tests/unit/test_api_middleware.py::test_a_tenant_sends_two_documents_at_once_and_the_third_is_sent_away",),
    ),
    Mutant(
        "X1",
        "headrace/answering/engine.py",
        "refused = not passages or (retrieved.similarity is not None and retrieved.similarity < self._settings.least_similarity)",
        "refused = False",
        "Nothing is declined: the generator makes something up where the documents hold no answer.",
        (
            "tests/integration/test_answers.py::test_a_question_that_nothing_is_near_is_declined_without_asking_the_generator",
            "tests/integration/test_answers.py::test_where_nothing_is_found_the_answer_is_that",
        ),
    ),
    Mutant(
        "X2",
        "headrace/answering/engine.py",
        "retrieved.similarity < self._settings.least_similarity",
        "retrieved.similarity <= self._settings.least_similarity",
        "What is exactly as near as it must be is declined.",
        ("tests/integration/test_answers.py::test_the_threshold_is_the_last_similarity_that_is_answered",),
    ),
    Mutant(
        "X3",
        "headrace/answering/engine.py",
        'note="; ".join(filter(None, (found.note, ordered.note)))',
        "note=found.note",
        "An answer does not say that the re-ranker was left out.",
        (
            "tests/integration/test_answers.py::test_a_reranker_that_is_down_is_left_out_and_the_answer_says_so",
            "tests/integration/test_answers.py::test_everything_that_was_left_out_is_said",
        ),
    ),
    Mutant(
        "X4",
        "headrace/api/questions.py",
        "kv_cache_bytes=limits.kv_cache_bytes",
        "kv_cache_bytes=None",
        "A tenant's part of the KV cache is not bounded.",
        (
            "tests/integration/test_answers.py::"
            "test_the_api_says_it_too_and_each_tenants_part_of_the_kv_cache_goes_to_the_generator",
        ),
    ),
    Mutant(
        "X5",
        "headrace/answering/engine.py",
        "seconds = min(patient.timeout_s, settings.rerank_seconds)",
        "seconds = patient.timeout_s",
        "A slow re-ranker holds up the answer.",
        ("tests/integration/test_answers.py::test_a_reranker_that_is_slow_is_left_out_after_its_time",),
    ),
    Mutant(
        "X6",
        "headrace/models/citations.py",
        "sum(support.number is not None for support in self.supports) / sentences",
        "1.0",
        "Every answer is said to stand on its passages.",
        ("tests/integration/test_answers.py::test_an_answer_says_how_near_the_best_passage_is_and_how_much_of_it_passages_hold",),
    ),
    Mutant(
        "Y1",
        "headrace/models/server/queue.py",
        "if self._inside >= self._slots:",
        "if self._inside > self._slots:",
        "One request more than there are slots waits for a model.",
        ("tests/unit/test_models_server_queue.py::test_as_many_requests_come_in_as_there_are_places_and_one_more_is_sent_away",),
    ),
    Mutant(
        "Y2",
        "headrace/models/server/queue.py",
        "rank = _URGENT if urgent else",
        "rank = _USUAL if urgent else",
        "A question waits behind the passages of a whole document.",
        ("tests/unit/test_models_server_queue.py::test_urgent_work_goes_before_what_waits_and_each_in_its_order",),
    ),
    Mutant(
        "Y3",
        "headrace/simulate/performance.py",
        "if tries >= _TRIES:",
        "if tries > _TRIES:",
        "A replay asks what does not answer six times.",
        ("tests/unit/test_simulate_script.py::test_what_does_not_answer_is_asked_five_times_in_all",),
    ),
    Mutant(
        "Y4",
        "headrace/simulate/performance.py",
        "if self._failed >= _FAILURES:",
        "if self._failed > _FAILURES:",
        "A replay goes on after five failures in a row.",
        ("tests/unit/test_simulate_script.py::test_failures_in_a_row_end_it_and_say_why",),
    ),
    Mutant(
        "Y5",
        "headrace/core/statistics.py",
        "max(0, math.ceil(share * len(ordered)) - 1)",
        "min(len(ordered) - 1, int(share * len(ordered)))",
        "A replay's percentiles are those of the rank above.",
        ("tests/unit/test_simulate_script.py::test_percentiles_are_those_of_the_nearest_rank",),
    ),
    Mutant(
        "Y6",
        "headrace/api/telemetry.py",
        "        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)))\n",
        "",
        "Spans never leave the process.",
        ("tests/unit/test_api_tracing.py::test_spans_reach_a_collector_and_say_nothing_of_what_was_asked",),
    ),
    Mutant(
        "Z1",
        "headrace/storage/signature.py",
        "if shown[index] != right[index] and message",
        "if shown[index] is None and message",
        "An event with anybody's signature lands.",
        (
            "tests/security/test_forged_events.py::test_a_closed_document_is_neither_opened_nor_deleted_and_nobody_speaks_for_another",
        ),
    ),
    Mutant(
        "Z2",
        "headrace/storage/records.py",
        "        yield \"'sha256' is not 64 hexadecimal digits\", pc.and_(names_one, pc.invert(hexadecimal))\n",
        "",
        "The hash in a document's event may be a path.",
        ("tests/security/test_poison.py::test_poison_is_buried_and_everybody_else_goes_on",),
    ),
    Mutant(
        "Z3",
        "headrace/documents/parse.py",
        "    except Exception as error:  # only",
        "    except ZeroDivisionError as error:  # only",
        "A document that breaks parsing stops every pass.",
        ("tests/security/test_poison.py::test_a_document_that_breaks_parsing_fails_alone",),
    ),
    Mutant(
        "Z4",
        "headrace/models/http.py",
        "            if len(crowd) <= most:",
        "            if len(crowd) <= 100_000:",
        "Connections are not bounded.",
        ("tests/security/test_doors.py::test_half_open_connections_keep_nobody_out",),
    ),
    Mutant(
        "Z5",
        "headrace/models/http.py",
        '    return method if method in _METHODS else "other"',
        "    return method",
        "Each method that anybody sends is a label of its own.",
        ("tests/security/test_doors.py::test_methods_that_nobody_knows_are_one_label",),
    ),
    Mutant(
        "Z6",
        "headrace/training/data/join.py",
        'coalesce("key", "user") as "user"',
        '"user"',
        "A key is as many users as it names.",
        ("tests/security/test_models_cannot_be_bought.py::test_a_key_under_many_names_is_one_user",),
    ),
    Mutant(
        "Z7",
        "headrace/api/documents.py",
        "            if used_bytes + size > limits.stored_bytes:",
        "            if size > limits.stored_bytes:",
        "Earlier versions do not count as stored.",
        ("tests/security/test_tenants.py::test_versions_of_one_name_do_not_pass_the_quota",),
    ),
    Mutant(
        "Z8",
        "headrace/documents/view.py",
        '        versions = {*self.versions_of(tenant, uri), *self.stored_of(tenant, uri)} - {""}',
        "        versions = set(list(self.stored_of(tenant, uri))[-1:])",
        "A deletion leaves the sources of earlier versions.",
        ("tests/security/test_tenants.py::test_a_deletion_takes_every_version",),
    ),
    Mutant(
        "Z9",
        "headrace/terminal.py",
        "    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)",
        "    return text",
        "Escapes reach the terminal.",
        ("tests/security/test_leaks.py::test_escapes_of_users_do_not_reach_the_operators_terminal",),
    ),
    Mutant(
        "Z10",
        "headrace/documents/embed.py",
        "(done or self._gives_way(self._waiting.keys()))",
        "False",
        "A pass ends when the largest document is in.",
        ("tests/security/test_tenants.py::test_a_large_document_does_not_keep_another_tenants_small_one_waiting",),
    ),
    Mutant(
        "Z11",
        "headrace/api/routes/runs.py",
        "                if not await asyncio.to_thread(still_valid):",
        "                if False:",
        "A stream goes on whose key was revoked.",
        ("tests/security/test_doors.py::test_the_stream_of_a_revoked_key_ends",),
    ),
    Mutant(
        "Z12",
        "headrace/models/kv/format.py",
        "        _cipher(secret, key).decrypt(nonce, tag, values)\n",
        "        pass\n",
        "A KV block that somebody planted is read.",
        ("tests/security/test_kv_blocks.py::test_a_block_that_somebody_planted_is_not_read",),
    ),
    Mutant(
        "Z13",
        "headrace/platform/address.py",
        "        squatted = listener in _WEED and _foreign(_socket(listener, port + GRPC_OFFSET))",
        "        squatted = False",
        "SeaweedFS talks through another user's socket.",
        ("tests/security/test_platform_locked.py::test_servers_take_other_ports_where_somebody_waits_for_them",),
    ),
    Mutant(
        "Z14",
        "headrace/platform/seaweedfs.py",
        '        **({"metricsPort": ports.metrics, "metricsIp": LOOPBACK} if setup and setup.counters else {}),',
        '        "metricsPort": ports.metrics,\n        "metricsIp": LOOPBACK,',
        "SeaweedFS's profiler is open.",
        ("tests/security/test_platform_locked.py::test_no_door_tells_what_goes_on_inside",),
    ),
    Mutant(
        "Z15",
        "headrace/platform/tansu.py",
        '        check_genuine("Tansu", Path(program), _RELEASED, home.genuine, hint=hint)',
        "        pass",
        "A changed Tansu is run.",
        ("tests/security/test_platform_locked.py::test_a_program_that_was_changed_is_refused",),
    ),
    Mutant(
        "Z16",
        "headrace/storage/vectors/handles.py",
        "        with self._faults():  # reads storage",
        "        with contextlib.nullcontext():",
        "A storage that is away is a 500.",
        ("tests/integration/test_retrieval.py::test_an_index_whose_storage_is_away_is_said_to_be_so_whatever_is_asked",),
    ),
    Mutant(
        "Z17",
        "headrace/documents/sources/beneath.py",
        "    how = _How(_FLAGS, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)",
        "    how = _How(_FLAGS, 0, 0)",
        "A link that is swapped in is followed.",
        ("tests/security/test_leaks.py::test_a_file_that_is_swapped_for_a_link_while_it_is_read_leads_nowhere",),
    ),
    Mutant(
        "Z18",
        "headrace/models/http.py",
        '    if names.count(b"authorization") > 1:',
        '    if names.count(b"authorization") > 9:',
        "The first of two keys wins.",
        ("tests/security/test_doors.py::test_a_request_that_can_be_read_in_two_ways_is_refused",),
    ),
    Mutant(
        "Z19",
        "headrace/api/errors.py",
        '    if (status < 500 and "://" not in str(error)) or (caller is not None and caller.admin):',
        "    if error is not None:",
        "An error shows a tenant the addresses of internal servers.",
        ("tests/security/test_doors.py::test_errors_that_nobody_asked_for_hold_no_address_of_ours",),
    ),
    Mutant(
        "Z20",
        "headrace/api/routes/documents.py",
        '        name = _IN_FORMS.sub(lambda found: chr(int(found[1], 16)), files[0].filename or "")',
        '        name = files[0].filename or ""',
        "A form gives names that nobody may give.",
        ("tests/security/test_documents.py::test_a_name_that_nobody_may_give_is_not_given_by_a_form_either",),
    ),
    Mutant(
        "Z21",
        "headrace/models/prompt.py",
        '_MARK.sub(r"\\g<0> ", _FRAME.sub(r"\\1 ", passage))',
        "passage",
        "A passage poses as the question and as another speaker.",
        ("tests/security/test_documents.py::test_a_document_poses_neither_as_the_prompt_nor_as_another_speaker",),
    ),
    Mutant(
        "Z22",
        "headrace/storage/tables/handles.py",
        "self._state.scan(columns, parsed(where), since)",
        "self._state.scan(columns, where, since)",
        "A name with a line feed cannot be asked for.",
        ("tests/security/test_documents.py::test_whatever_a_file_is_called_its_document_is_found_and_deleted",),
    ),
    Mutant(
        "Z23",
        "headrace/documents/sources/folder.py",
        'return not (name.startswith(".") or is_home(folder / name))',
        'return not name.startswith(".")',
        "A home in an indexed folder is indexed.",
        ("tests/security/test_leaks.py::test_a_home_in_an_indexed_folder_is_not_indexed_whosever_it_is",),
    ),
    Mutant(
        "Z24",
        "headrace/api/middleware.py",
        '        if caller is not None and "route" not in scope:  # refused',
        "        if False:  # refused",
        "What is refused for its number is in no audit.",
        ("tests/security/test_doors.py::test_a_request_that_was_refused_for_its_number_is_in_the_audit_with_its_route",),
    ),
    Mutant(
        "Z25",
        "headrace/api/auth.py",
        "        if not set(named) <= set(self.readers):",
        "        if False:",
        "A key that is bound to readers asks as others.",
        ("tests/security/test_tenants.py::test_a_key_that_is_bound_to_readers_asks_as_these",),
    ),
    Mutant(
        "Z26",
        "headrace/api/admission.py",
        "            return minute.begun + _MINUTE_S - now if minute.tries > PER_MINUTE else None",
        "            return None",
        "Wrong keys are tried without end.",
        ("tests/security/test_doors.py::test_many_wrong_keys_are_told_to_stop_and_a_right_one_is_let_in",),
    ),
    Mutant(
        "Z27",
        "headrace/api/answers.py",
        '    return passage.as_dict() if caller.admin else {**passage.as_dict(), "retrieval_score": None}',
        "    return passage.as_dict()",
        "BM25 says how rare a word is in others' documents.",
        ("tests/security/test_tenants.py::test_no_score_says_how_rare_a_word_is_in_others_documents",),
    ),
    Mutant(
        "Z28",
        "headrace/api/routes/documents.py",
        '        unquote_to_bytes(request.scope["raw_path"]).decode()',
        "        pass",
        "Bytes that are no text are another document's name.",
        ("tests/security/test_documents.py::test_whatever_a_file_is_called_its_document_is_found_and_deleted",),
    ),
    Mutant(
        "Z29",
        "headrace/app.py",
        "                (bars.warn if self._service else bars.note)(note)",
        "                bars.note(note)",
        "A service's journal says nothing of other users.",
        ("tests/security/test_platform_locked.py::test_what_is_not_closed_is_said_whenever_a_service_starts",),
    ),
    Mutant(
        "Z30",
        "headrace/answering/verdicts.py",
        "            done = done or self._landed(verdict) or self.record([verdict])[0]",
        "            done = self.record([verdict])[0]",
        "A verdict that is sent again is another.",
        ("tests/security/test_tenants.py::test_a_verdict_that_is_sent_again_is_recorded_once",),
    ),
    Mutant(
        "Z31",
        "headrace/api/static/lib/api.js",
        '    history.replaceState(null, "", location.pathname);\n',
        "",
        "The token stays in the address.",
        ("tests/integration/test_web.py::test_the_page_takes_its_token_from_the_address_keeps_it_for_its_tab_and_sends_it",),
    ),
    Mutant(
        "Z32",
        "headrace/api/middleware.py",
        "        address = _address(scope)\n",
        '        address = scope["client"][0] if scope.get("client") else ""\n',
        "What a client says of where it comes from is kept, however long.",
        ("tests/unit/test_api_middleware.py::test_an_address_that_is_none_is_not_kept",),
    ),
    Mutant(
        "Z33",
        "headrace/api/routes/documents.py",
        "> _MOST_BORDERS:",
        "> len(await request.body()):",
        "A form of borders is parsed while everybody waits.",
        ("tests/security/test_documents.py::test_a_form_is_read_at_once_or_not_at_all",),
    ),
    Mutant(
        "Z34",
        "headrace/documents/pieces.py",
        "    return least if len(text) > _BLOCK_CHARS else max(tokens.count(text), least)",
        "    return tokens.count(text)",
        "A table's header of one endless word is repeated above each of its rows.",
        ("tests/unit/test_documents_pieces.py::test_any_text_is_cut_in_time_and_into_pieces_of_a_size",),
    ),
    Mutant(
        "Z35",
        "headrace/storage/stream/reader.py",
        "low = min(low, records.begins(partition))",
        "pass",
        "A batch that was rewritten is taken for a gap.",
        ("tests/security/test_forged_events.py::test_a_batch_that_was_rewritten_leaves_no_gap",),
    ),
    Mutant(
        "Z36",
        "headrace/models/comparison.py",
        "(bool(self._names) and len(nowhere) == len(self._names))",
        "False",
        "A row of another thing answers for what the question names.",
        ("tests/unit/test_models_extract.py::test_what_the_passages_do_not_have_is_not_answered[What depth has berth E?]",),
    ),
    Mutant(
        "Z37",
        "headrace/settings/inference.py",
        "if embedded and not self.temperature else",
        "if embedded else",
        "Answers that are to vary are quoted.",
        ("tests/integration/test_answers.py::test_who_writes_the_answer[settings3-None-generated]",),
    ),
    Mutant(
        "Z38",
        "headrace/storage/vectors/search.py",
        "_DENSE_WEIGHT = 0.75",
        "_DENSE_WEIGHT = 0.25",
        "Words count three times as much as meaning.",
        ("tests/unit/test_storage_fuse.py::test_by_score_each_search_counts_as_a_share_of_its_best_one",),
    ),
    Mutant(
        "Z39",
        "headrace/storage/vectors/search.py",
        "similar | others, worded | more)",
        "similar | others, worded)",
        "What only dense search has among its first counts as without the words.",
        ("tests/integration/test_retrieval.py::test_fusion_has_both_scores_of_every_candidate",),
    ),
    Mutant(
        "Z40",
        "headrace/models/support.py",
        r"\w++(?:[./-]\w++){0,30}\.\w++",
        r"\w*(?:[._/-]\w+)*\.\w+",
        "A form's blank line is read in every way it can be.",
        ("tests/security/test_slow_words.py::test_a_question_of_underscores_is_read",),
    ),
    Mutant(
        "Z41",
        "headrace/documents/queue.py",
        'np.argsort(codes, kind="stable")',
        "np.argsort(codes)[::-1]",
        "A pass takes some events of a tenant, and not the first.",
        ("tests/unit/test_documents_queue.py::test_a_rank_is_how_many_of_the_same_tenant_are_before",),
    ),
    Mutant(
        "Z42",
        "headrace/storage/tables/iceberg/core.py",
        "max(update.snapshot.timestamp_ms, metadata.last_updated_ms)",
        "update.snapshot.timestamp_ms",
        "A clock that was ahead stops all commits.",
        ("tests/integration/test_storage.py::test_a_clock_that_was_hours_ahead_stops_no_commit",),
    ),
    Mutant(
        "Z43",
        "headrace/documents/chunk.py",
        "turn = [tenant for tenant in whose_turn(waiting, processed.ahead()) if tenant not in hold]",
        "turn = whose_turn(waiting, processed.ahead())",
        "Documents are split however many passages of their tenant wait.",
        ("tests/integration/test_documents_turns.py::test_a_pass_splits_few_of_the_documents_that_wait",),
    ),
    Mutant(
        "Z44",
        "headrace/documents/embed.py",
        "before = waiting.intakes[-1] if waiting.intakes else progress.read(version)",
        "before = progress.read(version)",
        "Each pass reads all passages that wait.",
        ("tests/integration/test_retrieval.py::test_chunks_that_wait_are_kept_from_one_pass_to_the_next",),
    ),
    Mutant(
        "Z45",
        "headrace/documents/embedding.py",
        "intake.waiting.difference_update(changed)",
        "pass",
        "A document that changes again and again keeps the index from ever being known to have all.",
        ("tests/unit/test_documents_embedding.py::test_a_document_that_changed_is_waited_for_by_the_pass_that_sees_the_change",),
    ),
    Mutant(
        "Z46",
        "headrace/models/kv/format.py",
        '"readers": readers_id, ',
        "",
        "Cached tokens show those of other readers whether they guessed what a closed document says.",
        ("tests/unit/test_models_kv_cache.py::test_a_key_commits_to_model_tenant_readers_and_every_token_before",),
    ),
    Mutant(
        "Z47",
        "headrace/documents/put.py",
        "not claims.claimed(tenant, (version,), beside=())",
        "True",
        "A deletion takes a source that another process has just looked for.",
        (
            "tests/security/test_races.py::test_a_source_stays_while_it_is_put_though_the_view_says_that_it_is_free",
            "tests/security/test_races.py::test_a_version_that_is_put_at_another_replica_while_the_others_are_deleted_stays",
        ),
    ),
    Mutant(
        "Z48",
        "headrace/documents/claims.py",
        "version for version, uri in rows if uri not in own",
        "version for version, uri in rows if uri in own",
        "A document moved from the API into a followed folder is lost.",
        (
            "tests/security/test_races.py::test_a_source_stays_while_another_document_with_the_same_bytes_is_put",
            "tests/unit/test_documents_claims.py::test_a_version_is_claimed_until_each_event_that_names_it_is_processed",
        ),
    ),
    Mutant(
        "Z49",
        "headrace/documents/parse.py",
        "if processed.includes(event))",
        "if False)",
        "A pass that is killed behind its commit leaves a claim for thirty days: sources that nobody has stay.",
        ("tests/security/test_races.py::test_what_a_pass_that_was_killed_had_processed_claims_nothing",),
    ),
    Mutant(
        "Z50",
        "headrace/documents/pii.py",
        r"|\d{1,5}+)){0,7}",
        r"|\d{1,5})){0,7}",
        "A run of digits is split in every way: a small document stops the service for minutes.",
        ("tests/unit/test_documents_pii.py::test_the_time_grows_with_the_text_and_no_faster",),
    ),
    Mutant(
        "Z51",
        "headrace/training/measures/passages.py",
        "if judges[i] != (user,)]",
        "if True]",
        "One key that judges whatever others judge has its own ranking promoted.",
        (
            "tests/unit/test_training_evaluate.py::test_a_question_without_a_users_verdicts_has_the_passages_that_others_judged",
            "tests/security/test_models_cannot_be_bought.py::test_a_key_that_judges_whatever_others_judge_buys_no_model",
        ),
    ),
    Mutant(
        "Z52",
        "headrace/models/server/__main__.py",
        "            self.force_exit = self.should_exit\n            self.should_exit = True\n",
        "            super().handle_exit(sig, frame)\n",
        "A model server that is stopped stores nothing more, and leaves the metadata store in the log beside it.",
        ("tests/integration/test_models_server.py::test_a_server_that_is_stopped_closes_the_metadata_store",),
    ),
)


def measure(ids: Sequence[str] = ()) -> dict[str, Any]:
    """Try these mutants, or all. Bound: none survives."""
    if unknown := set(ids) - {mutant.id for mutant in MUTANTS}:
        sys.exit(f"No mutant {', '.join(sorted(unknown))}; there are: {', '.join(mutant.id for mutant in MUTANTS)}.")
    chosen = [mutant for mutant in MUTANTS if not ids or mutant.id in ids]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        _copy(copy)
        failed, ended = _failures(copy, sorted({test for mutant in chosen for test in mutant.tests}), 10 * _LONGEST_S)
        if ended != 0:
            return {"passed": False, "without_a_mutant": {"ended": ended, "failed": failed}, "mutants": []}
        results = []
        for mutant in chosen:
            results.append(_tried(mutant, copy))
            print(_line(results[-1]), file=sys.stderr, flush=True)
    return {"passed": all(result["result"] == "killed" for result in results), "mutants": results}


def _copy(folder: Path) -> None:
    """The repository as it is in the checkout, what is not committed yet included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, folder / name)


def _tried(mutant: Mutant, copy: Path) -> dict[str, Any]:
    file, started = copy / mutant.file, time.monotonic()
    source = file.read_text(encoding="utf-8") if file.exists() else ""
    failed: list[str] = []
    missed = list(mutant.tests)
    if source.count(mutant.text) != 1:
        result = f"its text is there {source.count(mutant.text)} times"
    else:
        file.write_text(source.replace(mutant.text, mutant.instead), encoding="utf-8")
        try:
            failed, ended = _failures(copy, mutant.tests)
        finally:
            file.write_text(source, encoding="utf-8")
        missed = [test for test in mutant.tests if not any(_part_of(one, test) for one in failed)]
        result = f"pytest ended with {ended}" if ended not in (0, 1) else "survives" if missed else "killed"
    return {
        "id": mutant.id,
        "file": mutant.file,
        "bug": mutant.bug,
        "result": result,
        "not_failed": missed,
        "seconds": round(time.monotonic() - started, 1),
    }


def _failures(copy: Path, tests: Sequence[str], seconds: float = _LONGEST_S) -> tuple[list[str], int | str]:
    """The node ids of those tests that fail, and how pytest ended."""
    # No bytecode: a mutant of the same length, written within the same second, would not be seen.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}
    words = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", "", *tests]
    try:
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [], f"no result after {seconds:.0f} s"
    told = [line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return told, done.returncode


def _part_of(failed: str, test: str) -> bool:
    """Whether a line of pytest's summary is of this test, or of one of its parameters."""
    return failed == test or failed.startswith((f"{test} ", f"{test}[", f"{test}::"))


def _line(result: dict[str, Any]) -> str:
    return f"{result['id']:5} {result['result']:10} {result['seconds']:5.1f} s  {result['file']}: {result['bug']}"


def main() -> None:
    """Try the mutants that the command line names, all of them by default."""
    found = measure(sys.argv[1:])
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
