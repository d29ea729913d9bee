"""The served ranking: its pointer and the weights of its versions, read and cached by the process that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.catalog import Store
from headrace.core.schema import parse
from headrace.errors import HeadraceError, Transient
from headrace.models import RANKING
from headrace.models.cards import RankingCard
from headrace.models.pointer import NONE, ChampionPointer, read_pointer
from headrace.models.ranking import RankingWeights
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter, ReportedReader
from headrace.storage.objects import ObjectReader
from headrace.storage.recent import Recent

_AGAIN_S = 10.0


@dataclass(frozen=True)
class ServedRanking:
    """The pointer as last read, with the weights of the versions that it names; `trouble` says why some are missing."""

    etag: str = ""
    pointer: ChampionPointer = field(default_factory=lambda: ChampionPointer(model=RANKING))
    weights: Mapping[str, RankingWeights] = field(default_factory=dict)
    trouble: str = ""

    def champion(self, reranker: str) -> tuple[str, RankingWeights | None]:
        """The champion's version and weights; ("none", None) where it was not fitted with that re-ranker.

        `reranker` is the version that scored the passages, "none" without one.
        """
        return self._fitted(self.pointer.version, reranker)

    def challenger(self, answer_id: str, reranker: str) -> tuple[str, RankingWeights | None]:
        """The same for a canary, if the answer falls into its share; otherwise ("none", None)."""
        version = self.pointer.served(answer_id)
        return (NONE, None) if version == self.pointer.version else self._fitted(version, reranker)

    def _fitted(self, version: str, reranker: str) -> tuple[str, RankingWeights | None]:
        weights = self.weights.get(version)
        return (NONE, None) if weights is None or weights.reranker != reranker else (version, weights)


class RankingReader(ObjectReader, ReportedReader):
    """Reads which ranking is served, and folds what the model server read for the stage into its ledger."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._recent = Recent[ServedRanking](again_s=_AGAIN_S)

    def recent(self) -> ServedRanking:
        """The served ranking, at most about a second old. If it cannot be read, the previous one, if any, stays in use."""
        return self._recent.value(self._read)

    def _read(self, former: ServedRanking | None) -> ServedRanking:
        try:
            pointer, etag = read_pointer(self, RANKING)
            if former is not None and former.etag == etag and not former.trouble:
                return former
            names = {pointer.version, pointer.canary.version if pointer.canary else NONE} - {NONE}
            known = former.weights if former else {}
            return ServedRanking(etag, pointer, {name: known.get(name) or self._weights(name) for name in sorted(names)})
        except HeadraceError as error:
            if former is not None and isinstance(error, Transient):
                raise  # keep the previous one, and do not wait for the store again for a while
            return ServedRanking(trouble=error.message)

    def _weights(self, version: str) -> RankingWeights:
        key = f"{RANKING}/{version}/card.json"
        return parse(RankingCard, self.get(key), f"{self.store.name}/{key}").ranking
