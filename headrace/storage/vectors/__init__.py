"""The vector tier: LanceDB on objects or files."""
