"""The head: what just happened is in Kafka until a table holds it. Landing, divergences of the two, and what may be trimmed."""
