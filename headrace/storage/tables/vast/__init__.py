"""Tables in VAST DB."""
