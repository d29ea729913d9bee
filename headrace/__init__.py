"""Headrace runs the AI training loop and enterprise RAG on any storage, meters every byte, and draws what it measured."""

__version__ = "0.1.0"
