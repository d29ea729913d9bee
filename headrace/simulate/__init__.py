"""Replay: questions of a BEIR folder asked by simulated users, who judge what they get by the folder's judgements.

script: who asks what · verdict: how it is judged · here, via: where it is asked · performance: many at the same time, counted.
"""

from headrace.simulate.in_process import InProcessClient
from headrace.simulate.names import DocumentNames
from headrace.simulate.over_api import ApiClient
from headrace.simulate.performance import ReplayReport, play
from headrace.simulate.script import POISONER, UserPlan, chosen, script

__all__ = ["POISONER", "ApiClient", "DocumentNames", "InProcessClient", "ReplayReport", "UserPlan", "chosen", "play", "script"]
