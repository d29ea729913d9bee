"""Folders of questions with known answers (BEIR): how good retrieval and answers are, and users simulated from them.

beir, evaluate, retrieval, answers    an evaluation, from folder to figures
script, judgement                     a replay: who asks what, and how it is judged
in_process, over_api                  where it is asked
performance                           many users at the same time, counted
"""

from headrace.simulate.in_process import InProcessClient
from headrace.simulate.names import DocumentNames
from headrace.simulate.over_api import ApiClient
from headrace.simulate.performance import ReplayReport, play
from headrace.simulate.script import POISONER, UserPlan, chosen, script

__all__ = ["POISONER", "ApiClient", "DocumentNames", "InProcessClient", "ReplayReport", "UserPlan", "chosen", "play", "script"]
