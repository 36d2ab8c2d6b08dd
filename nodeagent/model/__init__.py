"""Plain frozen data that every room speaks, and the little arithmetic that belongs to the data itself.

Nothing here decides, reads, writes or knows the time; it imports the standard library only.
"""
