"""Iceberg tables behind a REST catalog."""
