"""The deck: slides about a recorded run, with native shapes and charts, every number from its ledger."""
