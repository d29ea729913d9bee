"""The table tier: its handles, and the formats that a table may have."""
