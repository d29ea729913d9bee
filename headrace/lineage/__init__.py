"""Lineage: trace answers back to verdicts and events forward to models; forget users and documents.

graph     both directions, from any answer or event
forget    removes a user or a document from every store, with a proof
"""
