"""A module per tier; every byte goes through a metered handle here. Storage knows nothing of stages' insides."""
