"""The join of answers with users' verdicts, however late: which of them count, and the examples they make.

Tables of an in-memory DuckDB, each made from the ones before it:

    verdict, interaction     events as delivered, with `reason` if left out
    answer, ruling           those that are used: rulings are verdicts on used answers
    shown                    one row per answer and passage
    on_passage, on_answer    rulings by what they are about; `counts` is true for each user's newest
    passage, whole           one row per candidate example, with `reason` if left out

Events are ordered by (at, topic, partition, offset), so that the result does not depend on the order of a table's files. `a` and
`v` number answers and then verdicts in that order; both identify an origin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from headrace.settings import Preparing
from headrace.training.cutoff import Exclusions

_NOT_JOINED = ["question", "answer", "prompt_tokens", "completion_tokens", "logprobs", "sampling", "generator_version"]
_ORIGIN = """topic || '/' || "partition" || '/' || "offset" """
_PLACE = """topic || '/' || "partition" """

# The head may deliver an event twice: the first counts, and suppressing any of them suppresses it.
_EVENTS = f"""
create table {{table}} as
select *, case
    when delivery > 1 then 'delivered twice'
    when suppressed then 'suppressed'
    when beyond then 'after the bound'
    when opted_out then 'tenant opted out'
    when tenant in (select tenant from unshared) then 'tenant did not opt in'
    {{more}}
    when simulated and not $simulated then 'simulated user'
end as reason
from (
    select event.*, {_ORIGIN} as origin,
        row_number() over (partition by {{key}} order by topic, "partition", "offset") as delivery,
        bool_or({_ORIGIN} in (select origin from suppressed_origin) or (event.tenant, event."user") in (
            select (tenant, "user") from suppressed_user)) over (partition by {{key}}) as suppressed,
        coalesce("offset" >= bound.first, false) as beyond,
        event.tenant in (select tenant from opted_out) as opted_out
    from {{events}} event left join bound on bound.place = {_PLACE}
)
"""
_CONSENT = "when not coalesce(consent, not $require_consent) then 'no consent'"

_UNANSWERED = """
update verdict set reason = case
    when answer_id not in (select answer_id from interaction) then 'without an answer'
    when (tenant, answer_id) not in (select (tenant, answer_id) from interaction) then 'of another tenant'
    else 'answer left out'
end
where reason is null and (tenant, answer_id) not in (select (tenant, answer_id) from {kept} {where})
"""

_RULINGS = """
create table ruling as
select $answers + row_number() over (order by "at", topic, "partition", "offset") - 1 as v,
    verdict.row, answer.a, coalesce("key", "user") as "user", up, chunk_id, simulated, correction, origin
from verdict join (select a, tenant, answer_id from answer) answer using (tenant, answer_id)
left join correction using (row)
where reason is null
"""

_SHOWN = """
create table shown as
select a, q, simulated, place, p.chunk_id as chunk_id, p.cited as cited,
    p.retrieval_score as retrieval_score, p.retrieval_rank as retrieval_rank, p.rerank_score as rerank_score, reranker,
    signals[place].retrieval_share as retrieval_share, signals[place].similarity as similarity,
    signals[place].fulltext as fulltext
from (
    select a, q, simulated, model_version as reranker, signals, unnest(passages) as p,
        generate_subscripts(passages, 1) as place
    from answer
)
qualify row_number() over (partition by a, p.chunk_id order by place) = 1
"""

# From here on `user` is the unit that counts as one user: the key, if it may not name users.
# A verdict on a passage takes precedence over one on an answer that cites it. Of each user's verdicts about the same question
# the newest counts.
_ON_PASSAGE = """
create table on_passage as
with about as (
    select shown.a, q, shown.chunk_id, v, "user", up, shown.simulated or ruling.simulated as simulated, true as direct
    from shown join ruling on ruling.a = shown.a and ruling.chunk_id = shown.chunk_id
    union all
    select shown.a, q, shown.chunk_id, v, "user", up, shown.simulated or ruling.simulated, false
    from shown join ruling on ruling.a = shown.a and ruling.chunk_id = '' and cited
), strongest as (
    select *, direct = bool_or(direct) over (partition by q, chunk_id) as strongest from about
)
select *, strongest and row_number() over (partition by q, chunk_id, strongest, "user" order by v desc) = 1 as counts
from strongest
"""
_ON_ANSWER = """
create table on_answer as
select answer.a, q, coalesce(generator, '') as writer, said, v, "user", up, answer.simulated or ruling.simulated as simulated,
    correction, row_number() over (partition by q, coalesce(generator, ''), said, "user" order by v desc) = 1 as counts
from answer join ruling on ruling.a = answer.a and ruling.chunk_id = '' and answer.kind = 'answer'
"""

_POOLED = """
    sum(case when not counts then 0 when up then 1 else -1 end) as balance,
    max(a) as a,
    count(distinct a) as answers,
    list_concat(list_sort(list_distinct(list(a))), list_sort(list(v))) as origins,
    list_sort(list_distinct(list("user") filter (counts))) as users,
    coalesce(bool_or(simulated) filter (counts), false) as simulated,
    max_by("user", v) filter (counts and up) as liker,
    max_by("user", v) filter (counts and not up) as disliker
"""
_PASSAGE = f"""
create table passage as
select pool.*, shown.retrieval_score, shown.retrieval_rank, shown.retrieval_share, shown.similarity, shown.fulltext,
    shown.rerank_score, shown.reranker, c, document_id, case
    when balance = 0 then 'tied'
    when shown.retrieval_score is null or shown.retrieval_rank is null then 'without score or rank'
    when c is null then 'passage forgotten'
    else chunk.reason
end as reason
from (select q, chunk_id, {_POOLED} from on_passage where strongest group by q, chunk_id) pool
join shown on shown.a = pool.a and shown.chunk_id = pool.chunk_id
left join chunk on chunk.chunk_id = pool.chunk_id
"""
_WHOLE = f"""
create table whole as
with given as (
    select a, bool_or(c is null) as forgotten, min(reason) as reason, list(c order by place) as chunks
    from shown left join chunk using (chunk_id) group by a
)
select pool.*, coalesce(chunks, []) as chunks, case
    when balance = 0 then 'tied'
    when correction is null and poor is not null then poor
    when forgotten then 'passage forgotten'
    else given.reason
end as reason
from (
    select q, writer, said, {_POOLED}, max_by(correction, v) filter (counts and correction is not null) as correction
    from on_answer group by q, writer, said
) pool join (select a, poor from answer) using (a) left join given using (a)
"""

_FATES = """
select coalesce(verdict.reason, fate) as reason, count(*) as rows
from verdict left join (
    select row, case
        when bool_or(counts) then 'counted'
        when bool_or(strongest) then 'superseded by a newer one'
        when bool_or(v is not null and not strongest) then 'outweighed by one on the passage'
        else 'on nothing that was shown'
    end as fate
    from ruling left join (
        select v, strongest, counts from on_passage union all select v, true, counts from on_answer
    ) used using (v)
    group by row
) using (row)
group by all
"""

# The document a question is about: the one with most liked passages, else the most cited, else the first retrieved.
_ABOUT = """
select q, document_id from (
    select q, document_id, 3 as level, count(*) as votes from passage where reason is null and balance > 0 group by all
    union all
    select q, document_id, 2, count(*) from shown join chunk using (chunk_id) where cited group by all
    union all
    select q, document_id, 1, count(*) from shown join chunk using (chunk_id) where place = 1 group by all
)
where q in (select q from passage where reason is null union all select q from whole where reason is null)
qualify row_number() over (partition by q order by level desc, votes desc, document_id) = 1
"""

_EXAMPLES = """
select * from (
    select split, rank, 0 as kind, q, worded, a, c, chunk_id, document_id, balance > 0 as liked,
        retrieval_score, retrieval_rank, origins, users,
        case when balance > 0 then liker else disliker end as "user", simulated, null::bigint as correction,
        []::bigint[] as chunks, substr(sha256(tenant || chr(31) || normal || chr(31) || chunk_id), 1, 24) as example_id,
        unit, retrieval_share, similarity, fulltext, rerank_score, reranker
    from passage join question using (q) where reason is null
    union all
    select split, rank, 1, q, worded, a, null, null, document, balance > 0,
        0.0, 0, origins, users,
        case when balance > 0 then liker else disliker end, simulated, correction,
        chunks, substr(sha256(tenant || chr(31) || normal || chr(31) || writer || chr(31) || said), 1, 24),
        unit, null, null, null, null, null
    from whole join question using (q) where reason is null
)
order by split, rank, kind, retrieval_rank, example_id
"""


class Join:
    """One join; its methods are called in their order."""

    def __init__(self, feedback: pa.Table, interactions: pa.Table, exclusions: Exclusions, settings: Preparing) -> None:
        """`interactions` are the answers that verdicts name, including repeated deliveries; both have their tables' columns."""
        self._database = duckdb.connect(
            ":memory:",
            config={"enable_external_access": False, "autoload_known_extensions": False, "python_enable_replacements": False},
        )
        self._take(
            suppressed_origin=pa.table({"origin": pa.array(sorted(exclusions.origins), pa.string())}),
            suppressed_user=_pairs(sorted(exclusions.users)),
            suppressed_document=pa.table({"document_id": pa.array(sorted(exclusions.documents), pa.string())}),
            bound=pa.table(
                {
                    "place": pa.array(list(exclusions.before), pa.string()),
                    "first": pa.array(list(exclusions.before.values()), pa.int64()),
                }
            ),
            opted_out=pa.table({"tenant": pa.array(sorted(set(settings.opted_out)), pa.string())}),
            unshared=pa.table({"tenant": pa.array(sorted(exclusions.tenants), pa.string())}),
            delivered_verdicts=_numbered(feedback.drop_columns(["reason", "correction", "extra"])),
            delivered_answers=_numbered(interactions.drop_columns(_NOT_JOINED)),
        )
        self._do(
            _EVENTS.format(table="verdict", events="delivered_verdicts", key="answer_id, verdict_id", more=_CONSENT),
            simulated=settings.simulated,
            require_consent=settings.require_consent,
        )
        self._do(
            _EVENTS.format(table="interaction", events="delivered_answers", key="answer_id", more=""),
            simulated=settings.simulated,
        )
        self._do(_UNANSWERED.format(kept="interaction", where="where reason is null"))

    def counting(self) -> tuple[list[int], list[int]]:
        """Row numbers of the answers to learn from, in order of time, and of the verdicts on them."""
        answers = self._column('select row from interaction where reason is null order by "at", topic, "partition", "offset"')
        return answers, self._column("select row from verdict where reason is null order by row")

    def answers(self, rows: pa.Table, corrections: pa.Table) -> None:
        """Add the answers to usable questions.

        `rows` has row, a (0, 1, … in order of time), q, said (in normal form), generator and poor, as in `AnsweredQuestions`.
        `corrections` have the row of a verdict and the number of its correction.
        """
        self._take(given=rows, correction=corrections)
        self._do(
            "create table answer as select a, q, said, generator, poor, answer_id, kind, tenant, simulated, passages, signals,"
            " model_version, origin"
            " from given join interaction using (row)"
        )
        self._do(_UNANSWERED.format(kept="answer", where=""))
        self._do(_RULINGS, answers=self._count("answer"))
        self._do(_SHOWN)

    def chunk_ids(self) -> pa.Table:
        """The chunks that the answers showed."""
        return self._rows("select distinct chunk_id from shown")

    def chunks(self, rows: pa.Table, deleted: pa.Table) -> None:
        """Add the chunks (c, chunk_id, document_id, and their document's event), and the deleted documents."""
        self._take(found_chunk=rows, deleted=deleted)
        self._do(
            f"""
            create table chunk as
            select c, chunk_id, document_id, case
                when document_id in (select document_id from suppressed_document)
                    or {_ORIGIN} in (select origin from suppressed_origin)
                    then 'document suppressed'
                when "offset" >= bound.first then 'document after the bound'
                when document_id in (select document_id from deleted) then 'document deleted'
            end as reason
            from found_chunk left join bound on bound.place = {_PLACE}
            """
        )
        for query in (_ON_PASSAGE, _ON_ANSWER, _PASSAGE, _WHOLE):
            self._do(query)

    def about(self) -> dict[int, str]:
        """q of each question with an example → the document it is about; "" if none of its passages exists."""
        query = "select q from passage where reason is null union select q from whole where reason is null"
        rows = self._rows(f"select q, document_id from ({query}) left join ({_ABOUT}) using (q) order by q").to_pylist()
        return {row["q"]: row["document_id"] or "" for row in rows}

    def examples(self, questions: pa.Table) -> pa.Table:
        """The examples in their order; `questions` have q, tenant, normal, worded, rank, split (a number), unit, document."""
        self._take(question=questions)
        return self._rows(_EXAMPLES)

    def origins(self) -> pa.ChunkedArray:
        """Origins by the numbers that examples have in their `origins`."""
        return self._rows("select origin from (select a, origin from answer union all select v, origin from ruling) order by a")[
            "origin"
        ]

    def left_out(self) -> Counter[str]:
        """Counts of what was left out, by kind and reason."""
        left: Counter[str] = Counter()
        for what, query in (
            ("interaction", "select reason, count(*) as rows from interaction group by all"),
            ("verdict", f"select reason, rows from ({_FATES}) where reason <> 'counted'"),
            ("passage", "select reason, count(*) as rows from passage group by all"),
            ("answer", "select reason, count(*) as rows from whole group by all"),
            ("passage", "select 'asked again' as reason, sum(answers - 1)::bigint as rows from passage where reason is null"),
            ("answer", "select 'said again' as reason, sum(answers - 1)::bigint as rows from whole where reason is null"),
        ):
            left.update({f"{what}: {row['reason']}": row["rows"] or 0 for row in self._rows(query).to_pylist() if row["reason"]})
        return left

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _take(self, **tables: pa.Table) -> None:
        for name, table in tables.items():
            self._database.register(name, table)

    def _do(self, query: str, **values: Any) -> None:
        self._database.execute(query, values or None)

    def _rows(self, query: str) -> pa.Table:
        rows: pa.Table = self._database.query(query).to_arrow_table()
        return rows

    def _column(self, query: str) -> list[int]:
        values: list[int] = self._rows(query).column(0).to_pylist()
        return values

    def _count(self, table: str) -> int:
        return self._column(f"select count(*) from {table}")[0]


def _numbered(table: pa.Table) -> pa.Table:
    return table.append_column("row", pa.array(range(table.num_rows), pa.int64()))


def _pairs(users: Sequence[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"tenant": pa.array([t for t, _ in users], pa.string()), "user": pa.array([u for _, u in users], pa.string())}
    )
