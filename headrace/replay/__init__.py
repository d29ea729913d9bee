"""Replay: questions of a BEIR folder asked by simulated users, who judge what they get by the folder's judgements.

script: who asks what · verdict: how it is judged · here, via: where it is asked · performance: many at the same time, counted.
"""

from headrace.replay.here import Here
from headrace.replay.names import Names
from headrace.replay.performance import Played, play
from headrace.replay.script import POISONER, Part, chosen, script
from headrace.replay.via import Via

__all__ = ["POISONER", "Here", "Names", "Part", "Played", "Via", "chosen", "play", "script"]
