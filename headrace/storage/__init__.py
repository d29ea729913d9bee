"""Metered storage handles, one module per tier. Every byte goes through them; storage knows nothing about stages."""
