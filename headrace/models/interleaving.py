"""Team-draft interleaving: one list made of two orders of the same candidates, so that verdicts on it prefer one of them.

Radlinski, Kurup, Joachims 2008, "How Does Clickthrough Data Reflect Retrieval Quality?": in each round a coin decides which order
picks first, and each picks the best candidate that is still free, for its team. What both orders begin with alike belongs to
neither. A user who likes candidates at random prefers neither order, wherever in the list they look.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence

CHAMPION, CHALLENGER = "champion", "challenger"


def team_draft(champion: Sequence[int], challenger: Sequence[int], seed: str) -> list[tuple[int, str]]:
    """Candidates in the order to show, each with its team ("" where neither picked it); the same for the same `seed`.

    Both orders are of the same candidates.
    """
    alike = 0
    while alike < len(champion) and champion[alike] == challenger[alike]:
        alike += 1
    drafted = dict.fromkeys(champion[:alike], "")
    dice = random.Random(hashlib.sha256(f"draft/{seed}".encode()).digest())
    teams = ((CHAMPION, iter(champion)), (CHALLENGER, iter(challenger)))
    while len(drafted) < len(champion):
        for team, order in teams if dice.random() < 0.5 else teams[::-1]:
            pick = next((one for one in order if one not in drafted), None)
            if pick is not None:
                drafted[pick] = team
    return list(drafted.items())


def preference(teams: Mapping[str, str], verdicts: Iterable[tuple[str, bool]]) -> float | None:
    """Which team verdicts (candidate, up) prefer: 1 the challenger's, 0 the champion's, 0.5 both alike; `None` without any."""
    balance, judged = 0, False
    for candidate, up in verdicts:
        if team := teams.get(candidate):
            judged = True
            balance += (1 if up else -1) * (1 if team == CHALLENGER else -1)
    return (balance > 0) + 0.5 * (balance == 0) if judged else None
