"""The head: what just happened sits in Kafka until a table holds it. Landing, its refusals, and what may be forgotten."""
