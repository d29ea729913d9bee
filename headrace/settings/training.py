"""The training loop: what is learned from, and what may be served."""

from __future__ import annotations

import os

from pydantic import Field

from headrace.settings.section import Section


class Preparing(Section):
    """Preparing: which verdicts become training examples."""

    near_duplicate: float = Field(default=0.9, ge=0.5, le=1)
    """Similarity (Jaccard of four-letter runs) from which two questions count as one when questions are held out."""
    shortest_question: int = Field(default=3, ge=1)
    """Minimum letters and digits of a question."""
    longest_question: int = Field(default=2_000, ge=1)
    """Maximum characters of a question."""
    simulated: bool = False
    """Whether to learn from questions and verdicts of simulated users (`headrace replay`); the demo sets this itself."""
    require_consent: bool = False
    """Whether a verdict counts only if its `consent` is true; otherwise it counts unless its `consent` is false."""
    opted_out: tuple[str, ...] = ()
    """Tenants whose data is not learned from."""
    evaluation: tuple[str, ...] = ()
    """Folders in BEIR layout, or files of questions (JSON lines, or one per line); similar questions are not learned from."""
    shard_rows: int = Field(default=50_000, ge=1)
    """Examples per file of a dataset."""


class Gate(Section):
    """Requirements for a challenger before it answers anybody, and alarms that reject it however good its score."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """The challenger is promoted only if it is better with this confidence."""
    least_questions: int = Field(default=30, ge=1)
    """Minimum held-out questions for a promotion: a bootstrap over fewer gives no confidence."""
    least_users: int = Field(default=3, ge=1)
    """Users (or keys that count as one) who must have judged held-out questions; from 2 on none may have judged half alone."""
    questions: int = Field(default=120, ge=1)
    """Held-out questions to evaluate a re-ranker or embedder by, or more if it takes more to show a plausible gain; half as many
    are used for fitting."""
    headroom: float = Field(default=0.5, gt=0)
    """The largest gain taken for possible, as a share of what is left to gain. A recipe is trained only if today's verdicts could
    show a smaller one; a large value trains whatever they could show, given the minimum questions and users."""
    length: float = Field(default=0.5, gt=0)
    """Share by which the mean length of answers may change."""
    refusals: float = Field(default=0.05, ge=0, le=1)
    """Share of the held-out questions by which refusals may increase."""
    repetition: float = Field(default=0.05, ge=0, le=1)
    """By how much the share of repeated three-word runs in answers may increase."""
    kl: float = Field(default=0.5, gt=0)
    """Maximum KL divergence of a generator from the one it started from, in nats per token."""
    tenant_questions: int = Field(default=10, ge=1)
    """Held-out questions from which on a tenant's own score counts: it may not get worse with confidence."""
    user_share: float = Field(default=0.1, gt=0, le=1)
    """If a user has more than this share of the held-out questions, the decision must also hold without them."""


class CanarySettings(Section):
    """A canary: a challenger serves a share of traffic before it becomes champion; used by the loop of `headrace up`."""

    share: float = Field(default=0.1, ge=0, le=1)
    """Share of answers the challenger gives, by the hash of the answer's id; 0 starts no canary."""
    verdicts: int = Field(default=30, ge=1)
    """Judged answers of the challenger after which it becomes champion, unless they show that it is worse."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which it becomes champion with fewer verdicts, unless they show that it is worse."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence that it is worse at which the canary ends."""


class Training(Section):
    """The training loop. A recipe's own settings are in its file; override them under `recipe`."""

    recipes: tuple[str, ...] = ("auto",)
    """Recipes that the loop of `headrace up` runs, one after another; `auto`: those that `headrace train` chooses among."""
    recipe: dict[str, dict[str, bool | int | float | str]] = Field(default={})
    """Overrides of a recipe's settings, e.g. `epochs = 3` under `[training.recipe.reranker]`."""
    verdicts: int = Field(default=200, ge=1)
    """New verdicts after which a round starts automatically."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which a round starts automatically with fewer new verdicts."""
    preparing: Preparing = Preparing()
    """Which verdicts become training examples."""
    gate: Gate = Gate()
    """Requirements for a challenger."""
    canary: CanarySettings = CanarySettings()
    """The canary: a challenger that first serves a share of traffic."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints to keep while training."""
    nice: int = Field(default=10, ge=0, le=19)
    """Niceness of the loop of `headrace up`, so that answering goes first when both need the processor."""
    seed: int = 17
    """Seed of everything random in a round."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processor threads; fixed by a round's plan, since the order of sums, and so the last bit of a weight, depends on them."""
