"""Ingest: events stay in the head (Kafka) until a table holds them. Landing, divergences of head and table, and trimming."""
