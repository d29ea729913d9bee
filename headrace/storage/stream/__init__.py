"""Stream tier: Kafka topics, the head."""
