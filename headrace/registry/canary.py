"""Canary evaluation: compares users' verdicts on the challenger's and the champion's answers, and ends the canary.

A canary is tested three times, at a third, two thirds and all of the judged answers it waits for (or when its time is over),
each time on what was known when the last of them was judged. Testing after every verdict would sooner or later find any
challenger worse; with three tests at fixed sizes, the configured confidence holds for all of them together.

A ranking's canary is interleaved instead: the same answer has passages that the champion picked and passages that the challenger
picked, and each user who judges some of them prefers one of the two. That takes about a tenth of the verdicts (Chapelle,
Joachims, Radlinski, Yue 2012, "Large-Scale Validation and Analysis of Interleaved Search Evaluation"), and the test may be made
after each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median_low
from typing import Annotated, Any

import numpy as np

from headrace.catalog import FEEDBACK_ROWS, INTERACTION_ROWS, MODELS, PROMOTIONS
from headrace.core.stage import stage
from headrace.core.statistics import sign_evidence
from headrace.models import GENERATOR, RANKING, RERANKER
from headrace.models.interleaving import preference
from headrace.models.pointer import NONE
from headrace.settings import Training
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter, quoted
from headrace.training.measures.passages import ndcg
from headrace.training.promotions import CANARY_ENDED, PROMOTE, champion, end_canary, move

_ORDERS = (RANKING, RERANKER)
TRIED = (*_ORDERS, GENERATOR)
"""Models that can have a canary. Not the embedder: vectors of two embedders cannot be compared."""
_LOOKS = 3
_LEAST = 5  # with fewer judged answers of the challenger, only the last test is made
_EXPECTED = 5.0  # expected answers from which having given none means broken, not unlucky
_UNGROUNDED = 0.05  # allowed drop in groundedness, like the gate's `refusals` for refusals
_RESAMPLES = 10_000
_PER_USER = 5  # preferences of one user that count
_PREFERRED = "preferred passages of interleaved answers"
_UNRANKED = 1 << 30  # rank of a passage whose event has none: last
_RELEASED = re.compile(r"v\d{6,12}")
_ANSWER_COLUMNS = (
    *("answer_id", "kind", "answer", "passages", "signals", "generator_version", "model_version", "ranking_version"),
    *("groundedness", "tenant", "user", "key", "simulated", "at"),
)
_VERDICT_COLUMNS = ("verdict_id", "answer_id", "tenant", "user", "key", "simulated", "up", "chunk_id", "at")


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer for canary evaluation: its version, time, outcome (0 to 1), when it was judged and by which users.

    For a generated answer, `beside` has `grounded` and `answered` (0: it declined), and `asker` says who asked.
    """

    version: str
    at: datetime
    outcome: float | None = None
    judged_at: datetime | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    users: frozenset[str] = frozenset()
    preferences: tuple[Preference, ...] = ()
    asker: str = ""


@dataclass(frozen=True)
class Preference:
    """What a user's verdicts on an interleaved answer prefer: 1 the challenger's passages, 0 the champion's, 0.5 both alike."""

    user: str
    at: datetime
    value: float


@dataclass(frozen=True)
class Side:
    """The figures of one side of a canary: answers, judged answers, mean outcome, and the means of `beside`."""

    answers: int
    judged: int
    outcome: float | None
    beside: dict[str, float]


@dataclass(frozen=True)
class CanaryStatus:
    """A canary's state; `ended` is "promote", "canary_ended", or "" while it runs; `why` gives the reason."""

    model: str
    version: str
    champion: str
    share: float
    round: int
    since: str
    until: str
    wanted: int
    measure: str
    challenger: Side
    champion_side: Side
    ended: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The canary for the page and `headrace loop --json`."""
        return {**vars(self), "challenger": vars(self.challenger), "champion_side": vars(self.champion_side)}


@stage("Watches a canary: ends it if users find it worse, and promotes it if they do not.")
def decide_canary(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    model: str,
    settings: Training,
    now: datetime | None = None,
) -> CanaryStatus | None:
    """The status of a model's canary, ended by compare-and-swap if it is over; `None` if there is none.

    Raises `LostRace` if another process moved the pointer meanwhile.
    """
    pointer, etag = champion(models, model)
    canary = pointer.canary
    if canary is None:
        return None
    begun = f"at >= {quoted(canary.since)}"
    rows, verdicts = interactions.read(_ANSWER_COLUMNS, begun).to_pylist(), feedback.read(_VERDICT_COLUMNS, begun).to_pylist()
    answers = judged_answers(model, rows, verdicts, simulated=settings.preparing.simulated)
    ours = [one for one in answers if one.version == canary.version]
    theirs = [one for one in answers if one.version == pointer.version]
    until = datetime.fromisoformat(canary.since) + timedelta(minutes=settings.canary.minutes)
    ended, why = verdict(model, ours, theirs, settings, share=canary.share, over=(now or datetime.now(UTC)) >= until)
    who = f"canary of round {canary.round}"
    if ended == CANARY_ENDED:
        end_canary(models, promotions, model, who=who, why=why, seen=(pointer, etag))
    elif ended == PROMOTE:
        move(models, promotions, model, canary.version, who=who, why=why, kind=PROMOTE, seen=(pointer, etag))
    return CanaryStatus(
        model,
        canary.version,
        pointer.version,
        canary.share,
        canary.round,
        canary.since,
        until.isoformat(),
        settings.canary.verdicts,
        "liked answers" if model == GENERATOR else _PREFERRED if model == RANKING else "nDCG@10 of judged passages",
        _side(ours),
        _other_side(ours) if model == RANKING else _side(theirs),
        ended,
        why,
    )


def judged_answers(
    model: str, interactions: Iterable[Mapping[str, Any]], feedback: Iterable[Mapping[str, Any]], *, simulated: bool = False
) -> list[JudgedAnswer]:
    """The answers that a model took part in, with their outcomes; an event delivered twice counts once.

    For the generator, the outcome is the share of users who liked the answer. For the re-ranker, it is nDCG@10 of the judged
    passages in the order served (unjudged ones count as not liked), or, if none was judged, the same as for the generator. For a
    ranking, it is the mean of the users' preferences, of an interleaved answer only.
    Only a user's newest verdict on the same thing counts; a key that may not name users counts as one user, and so do all that
    a tenant made by one, whether they judge or ask. What simulated users asked and judged counts only if `simulated` says so.
    """
    interactions, feedback = ([row for row in rows if simulated or not row.get("simulated")] for rows in (interactions, feedback))
    verdicts_of: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in sorted(feedback, key=lambda row: (row["at"], row["verdict_id"])):
        verdicts_of.setdefault(row["answer_id"], {})[row["chunk_id"], row.get("key") or row["user"]] = row
    answers: dict[str, JudgedAnswer] = {}
    for row in interactions:
        version = _version(model, row)
        if version is None or row["answer_id"] in answers:
            continue
        verdicts = list(verdicts_of.get(row["answer_id"], {}).values())
        preferences = _preferences(row, verdicts) if model == RANKING else ()
        outcome = _mean([one.value for one in preferences]) if preferences else None
        if model != RANKING:
            outcome = _outcome(model, row, verdicts)
        judged_at = max(one["at"] for one in verdicts) if outcome is not None else None
        users = frozenset(map(_user, verdicts))
        answers[row["answer_id"]] = JudgedAnswer(
            version,
            row["at"],
            outcome,
            judged_at,
            _beside(row) if model == GENERATOR else {},
            users,
            preferences,
            asker=_user(row),
        )
    return list(answers.values())


def verdict(
    model: str, ours: Sequence[JudgedAnswer], theirs: Sequence[JudgedAnswer], settings: Training, *, share: float, over: bool
) -> tuple[str, str]:
    """How a canary ends ("promote", "canary_ended", or "" for not yet), and why; `over`: its time is over.

    No single user may decide: of the answers that only one user judged, at most 1 / `gate.least_users` of the number waited for
    count (`_shared`), of the champion's as many as of the median user if that is more, and the result must hold without any one
    user (`_of_several`). The confidence that each test of each
    measure requires is corrected for their number (Bonferroni), so that `canary.confidence` holds for all of them together.
    """
    wanted = settings.canary.verdicts
    if model == RANKING and (decided := _preferred(ours, settings)) is not None:
        return decided
    most = math.ceil(wanted / settings.gate.least_users)
    # The champion gives more answers, so of one user more may count, but no more than of the others.
    theirs = _shared(theirs, max(most, median_low(_alone(theirs).values() or [0])))
    ours = _shared(ours, most)
    judged = sorted(one.judged_at for one in ours if one.judged_at is not None)
    sizes = sorted({math.ceil(wanted * look / _LOOKS) for look in range(1, _LOOKS + 1)})
    looks = [judged[size - 1] for size in sizes if size <= len(judged) and size >= min(_LEAST, wanted)]
    if over and len(judged) < wanted:
        looks.append(datetime.max.replace(tzinfo=UTC))
    tests = 3 if model == GENERATOR else 1
    confidence = 1 - (1 - settings.canary.confidence) / (_LOOKS * tests)
    for cut in looks if model != RANKING else ():
        worse = _worse(_known_at(ours, cut), _known_at(theirs, cut), settings, confidence)
        if worse:
            return CANARY_ENDED, worse
    if len(judged) >= wanted:
        return PROMOTE, f"not worse as a canary: {_summary(ours, theirs)}"
    if not over:
        return "", ""
    if not ours and share * len(theirs) >= _EXPECTED * (1 - share):
        return CANARY_ENDED, f"it gave none of {len(theirs):,} answers, although its share is {share:.0%}: it cannot be loaded"
    return PROMOTE, f"not worse in {settings.canary.minutes:g} minutes as a canary: {_summary(ours, theirs)}"


def _preferred(ours: Sequence[JudgedAnswer], settings: Training) -> tuple[str, str] | None:
    """How an interleaved canary ends by what users prefer; `None` for not yet.

    The first `_PER_USER` preferences of each user count, and the result must hold without any one user, so that no single user
    decides. The evidence can be tested after every preference: the chance that a challenger that is not worse ends here is at
    most 1 - `canary.confidence`, and the chance that one that is not better is promoted here is at most 1 - `gate.confidence`.
    """
    counted: Counter[str] = Counter()
    wins, losses = Counter[str](), Counter[str]()  # by user
    least = settings.gate.least_users
    for one in sorted((one for answer in ours for one in answer.preferences), key=lambda one: one.at):
        if counted[one.user] >= _PER_USER:
            continue
        counted[one.user] += 1
        wins[one.user] += one.value > 0.5
        losses[one.user] += one.value < 0.5
        if len(counted) < least:
            continue
        won, lost = wins.total(), losses.total()
        found = f"of {won + lost:,} preferences of {len(counted):,} users {won:,} are for its passages"
        for ended, more, fewer, confidence, what in (
            (CANARY_ENDED, losses, wins, settings.canary.confidence, "users prefer the champion's passages"),
            (PROMOTE, wins, losses, settings.gate.confidence, "users prefer its passages"),
        ):
            evidence, needed = sign_evidence(more.total(), fewer.total()), 1 / (1 - confidence)
            if evidence >= needed and (least == 1 or _without_any(more, fewer)):
                return ended, f"{what}: {found} (evidence {evidence:,.0f} to 1, {needed:,.0f} is required)"
    return None


def worse(mine: Sequence[float], others: Sequence[float], seed: int) -> float:
    """Confidence that the mean of `mine` is less than that of `others`, 0 to 1; 0 if either is empty.

    1 minus the achieved significance level of the two-sample bootstrap test (Efron, Tibshirani 1993, "An Introduction to the
    Bootstrap", algorithm 16.1): both samples are redrawn from their union, under the null hypothesis, and the draws are counted
    whose difference of means exceeds the observed one. A single verdict thus proves little. Values are rounded to two digits.
    """
    if not mine or not others:
        return 0.0
    ours, theirs = np.round(mine, 2), np.round(others, 2)
    values, counts = np.unique(np.concatenate([ours, theirs]), return_counts=True)
    random = np.random.default_rng(seed)
    shares = counts / counts.sum()
    # Draw the counts of each value instead of the values: the same resamples, as a matrix product.
    drawn = [random.multinomial(n, shares, size=_RESAMPLES) @ values / n for n in (len(ours), len(theirs))]
    seen = float(np.mean(ours) - np.mean(theirs))
    return round(float((drawn[0] - drawn[1] > seen + 1e-9).mean()), 4)


def _known_at(answers: Sequence[JudgedAnswer], cut: datetime) -> list[JudgedAnswer]:
    """What was known at `cut`: answers given by then, without verdicts given later."""
    there = [one for one in answers if one.at <= cut]
    return [
        one
        if one.judged_at is None or one.judged_at <= cut
        else JudgedAnswer(one.version, one.at, beside=one.beside, asker=one.asker)
        for one in there
    ]


def _worse(ours: Sequence[JudgedAnswer], theirs: Sequence[JudgedAnswer], settings: Training, confidence: float) -> str:
    """How the challenger is worse at the required confidence; empty if it is not."""
    mine, other = _outcomes(ours), _outcomes(theirs)
    if (sure := worse(mine, other, settings.seed)) >= confidence and _of_several(ours, theirs, settings.gate.least_users):
        return f"users find it worse with {sure:.1%} confidence, {confidence:.1%} is required: {_summary(ours, theirs)}"
    margins = {"grounded": _UNGROUNDED, "answered": settings.gate.refusals}
    for name, margin in margins.items():
        here, there = ([one for one in side if name in one.beside] for side in (ours, theirs))
        sure = _short_of(here, there, name, margin, settings)
        if sure >= 1 - (1 - confidence) / 2:
            what = "are less grounded in the passages" if name == "grounded" else "decline more often"
            means = " against ".join(f"{np.mean([one.beside[name] for one in side]):.2f}" for side in (here, there))
            return f"its answers {what} with {sure:.1%} confidence, {confidence:.1%} is required ({name}: {means})"
    return ""


def _short_of(
    ours: Sequence[JudgedAnswer], theirs: Sequence[JudgedAnswer], name: str, margin: float, settings: Training
) -> float:
    """Confidence that the challenger's mean is lower by more than `margin`; of two tests the higher one.

    Nobody has to judge these answers, so a user who asks without end would decide alone, by what it asks. With `gate.least_users`
    and more, a second test is without the one who asked most, and each must hold without any other one, or it shows nothing.
    """
    asked = Counter(one.asker for one in (*ours, *theirs))
    several = len(asked) >= max(2, settings.gate.least_users)
    sure = 0.0
    for without in [None, *([asked.most_common(1)[0][0]] if several else [])]:
        mine, other = ([(one.asker, one.beside[name]) for one in side if one.asker != without] for side in (ours, theirs))
        other = [(user, value - margin) for user, value in other]
        if not several or _holds_without_any(mine, other):
            sure = max(sure, worse([value for _, value in mine], [value for _, value in other], settings.seed))
    return sure


def _holds_without_any(mine: Sequence[tuple[str, float]], other: Sequence[tuple[str, float]]) -> bool:
    """Whether the mean of `mine`, pairs of user and value, is lower than that of `other` when any one user is left out."""
    means = []
    for pairs in (mine, other):
        counts, sums = Counter[str](), dict[str, float]()
        for user, value in pairs:
            counts[user] += 1
            sums[user] = sums.get(user, 0.0) + value
        means.append((len(pairs), counts, sum(sums.values()), sums))

    def without(user: str) -> list[float]:
        """Both means; none of a side that has no other user."""
        return [
            (total - sums.get(user, 0.0)) / (size - counts[user]) for size, counts, total, sums in means if size > counts[user]
        ]

    users = {user for user, _ in (*mine, *other)}
    return all(len(rest) == 2 and rest[0] < rest[1] for rest in map(without, users))


def _without_any(more: Counter[str], fewer: Counter[str]) -> bool:
    """Whether `more` still outnumber `fewer` when any one user is left out."""
    ahead = more.total() - fewer.total()
    return all(ahead - (more[user] - fewer[user]) > 0 for user in more)


def _alone(answers: Sequence[JudgedAnswer]) -> Counter[frozenset[str]]:
    """How many answers each user alone judged."""
    return Counter(one.users for one in answers if one.judged_at is not None and len(one.users) == 1)


def _shared(answers: Sequence[JudgedAnswer], most: int) -> list[JudgedAnswer]:
    """The answers; those that only one user judged lose their verdict once that user has decided `most` of them."""
    alone: Counter[frozenset[str]] = Counter()
    shared = []
    for one in sorted(answers, key=lambda one: (one.judged_at is not None, one.judged_at or one.at)):
        if one.judged_at is not None and len(one.users) == 1:
            alone[one.users] += 1
            if alone[one.users] > most:
                one = JudgedAnswer(one.version, one.at, beside=one.beside, asker=one.asker)
        shared.append(one)
    return shared


def _of_several(ours: Sequence[JudgedAnswer], theirs: Sequence[JudgedAnswer], least: int) -> bool:
    """Whether at least `least` users judged the challenger's answers, and it is worse even without any one of them."""
    users = {user for one in ours if one.outcome is not None for user in one.users}
    if least > 1 and len(users) < least:
        return False
    for user in users if least > 1 else ():
        mine, other = (_outcomes([one for one in side if user not in one.users]) for side in (ours, theirs))
        if not mine or not other or np.mean(mine) >= np.mean(other):
            return False
    return True


def _summary(ours: Sequence[JudgedAnswer], theirs: Sequence[JudgedAnswer]) -> str:
    values = [one.value for answer in ours for one in answer.preferences]
    if values:
        return f"{len(values):,} preference{'' if len(values) == 1 else 's'}, {_mean(values):.0%} for its passages"
    parts = [
        f"{who} {len(outcomes):,} judged answer{'' if len(outcomes) == 1 else 's'}"
        + (f" with a mean of {np.mean(outcomes):.3f}" if outcomes else "")
        for who, outcomes in (("its", _outcomes(ours)), ("the champion's", _outcomes(theirs)))
    ]
    return ", ".join(parts)


def _outcomes(answers: Sequence[JudgedAnswer]) -> list[float]:
    return [one.outcome for one in answers if one.outcome is not None]


def _side(answers: Sequence[JudgedAnswer]) -> Side:
    outcomes = _outcomes(answers)
    names = sorted({name for one in answers for name in one.beside})
    means = {name: round(float(np.mean([one.beside[name] for one in answers if name in one.beside])), 4) for name in names}
    return Side(len(answers), len(outcomes), round(float(np.mean(outcomes)), 4) if outcomes else None, means)


def _other_side(answers: Sequence[JudgedAnswer]) -> Side:
    """The champion's side of interleaved answers: it takes part in each, and its outcome is 1 minus the challenger's."""
    ours = _side(answers)
    return Side(ours.answers, ours.judged, None if ours.outcome is None else round(1 - ours.outcome, 4), {})


def _user(row: Mapping[str, Any]) -> str:
    """The user who asked, or gave a verdict, with the tenant; where a key counts as one user, the key."""
    return f"{row.get('tenant', '')}/{row.get('key') or row.get('user', '')}"


def _preferences(row: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]) -> tuple[Preference, ...]:
    """What each user who judged passages of an interleaved answer prefers."""
    teams = {
        passage["chunk_id"]: signal["team"]
        for passage, signal in zip(row["passages"] or (), row.get("signals") or (), strict=False)
        if passage and signal and signal.get("team")
    }
    said: dict[str, list[Mapping[str, Any]]] = {}
    for one in verdicts:
        said.setdefault(_user(one), []).append(one)
    found = (
        (user, max(one["at"] for one in own), preference(teams, [(one["chunk_id"], one["up"]) for one in own]))
        for user, own in said.items()
    )
    return tuple(Preference(user, at, value) for user, at, value in found if value is not None)


def _version(model: str, row: Mapping[str, Any]) -> str | None:
    """The model version behind an answer, or `None` if the model took no part in it."""
    if model in _ORDERS:
        version = row["model_version"] if model == RERANKER else row.get("ranking_version") or NONE
        return str(version) if row["passages"] else None
    # If no passage was near enough, nothing was generated; a packaged generator reports its weights as the name.
    name = row["generator_version"]
    if row["kind"] != "answer" or name == NONE:
        return None
    return name if _RELEASED.fullmatch(name) else NONE


def _outcome(model: str, row: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]) -> float | None:
    passages = [passage for passage in row["passages"] or () if passage]  # an event may hold nulls in their place
    if model == RERANKER:
        liked: dict[str, list[float]] = {}
        for one in verdicts:
            if one["chunk_id"]:
                liked.setdefault(one["chunk_id"], []).append(float(one["up"]))
        relevance = [_mean(liked.get(passage["chunk_id"], [0.0])) for passage in passages]
        if any(passage["chunk_id"] in liked for passage in passages):
            return ndcg(relevance, sorted(range(len(passages)), key=lambda i: _rank(passages[i])))
    whole = [float(one["up"]) for one in verdicts if not one["chunk_id"]]
    return _mean(whole) if whole else None


def _rank(passage: Mapping[str, Any]) -> int:
    """The rank at which a passage was served: the retrieval rank if no re-ranker scored it."""
    rank = passage["retrieval_rank"] if passage["rerank_rank"] is None else passage["rerank_rank"]
    return _UNRANKED if rank is None else int(rank)


def _beside(row: Mapping[str, Any]) -> dict[str, float]:
    from headrace.training.data.text import refused

    text = str(row["answer"])
    declined = not text.strip() or refused(text)
    measures = {"answered": float(not declined)}
    if row["groundedness"] is not None and not declined:
        measures["grounded"] = float(row["groundedness"])
    return measures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
