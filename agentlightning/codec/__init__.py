"""The types of the API as messages of the contract, and back. Nothing else knows both.

Everything here is a pure function. What comes from a message is not validated again: the store did that. A message
that this release cannot read raises `CodecError`; a value that no message can carry raises `TypeError` or `ValueError`
and names the place.
"""
