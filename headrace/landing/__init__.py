"""Landing: events stay in the head (Kafka) until a table holds them.

land            the stage: events to rows, each once; rows and position are one commit
follow          landing until stopped
partitions      which of several landers has which partition
positions       how far a table has landed, and whether the head agrees
divergence      how landing goes on where they do not agree
dead_letters    records that cannot be read
backlog         what has not landed yet
trim            deletes from the broker what tables hold
event           an event's address
"""
