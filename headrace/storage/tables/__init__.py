"""The table tier: handles and table backends."""
