"""Evaluation against a folder of questions with known answers: how good retrieval is, and how good the answers are."""
