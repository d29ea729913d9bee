"""The vector tier: LanceDB on object storage or files."""
