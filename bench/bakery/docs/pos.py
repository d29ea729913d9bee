"""Till software: rounding and limits."""

MAX_DISCOUNT_PERCENT = 15  # the highest discount that a cashier may give
RECEIPT_LANGUAGE = "de"
SYNC_SECONDS = 90  # how often the till sends its sales to the office
