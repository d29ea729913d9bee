"""Evaluation of retrieval and answers on BEIR folders, and users simulated from them.

beir, evaluate    an evaluation, from folder to figures
users             a replay's users: what each asks, and how they judge
clients           the clients they ask through
performance       the replay: concurrent users, with counts and latencies
questions         questions that a person would ask about documents
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
