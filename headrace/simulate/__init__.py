"""Folders of questions with known answers (BEIR): how good retrieval and answers are, and users simulated from them.

beir, evaluate    an evaluation, from folder to figures
users             a replay: who asks what, and how each judges
clients           where they ask
performance       many users at the same time, counted
"""

from headrace.simulate.beir import DocumentNames
from headrace.simulate.clients import ApiClient, InProcessClient
from headrace.simulate.performance import ReplayReport, play
from headrace.simulate.users import POISONER, UserPlan, chosen, user_plans

__all__ = [
    "POISONER",
    "ApiClient",
    "DocumentNames",
    "InProcessClient",
    "ReplayReport",
    "UserPlan",
    "chosen",
    "play",
    "user_plans",
]
