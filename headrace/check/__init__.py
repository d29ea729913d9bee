"""An acceptance test of storage: does it keep the promises that Headrace relies on?

A module per tier (`objects`, `head`, `catalog`, `files`) holds its promises, each a function that asks for one in a room of
the check's own and says what it measured, or raises `Broken`. A further promise is a further function in its module's
`PROMISES`. What is checked is the storage, so the clients here are the libraries that Headrace uses, without the care that
its handles take on top. `acceptance.accept` asks for all of them.
"""
