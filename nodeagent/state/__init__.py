"""What to do, decided in pure code: no I/O, no clock, no logging, no asyncio.

Time comes in as a number, and every function returns a value; `reconciler.py` is the one that calls them, in
the order inventory -> desired -> holds -> observed -> plan -> status.
"""
