"""What Git says: watches and reads the document, and makes a sharing config of it or says why not.

Two formats are understood, our own and NVIDIA's `version: v1`; beyond this room there is only `SharingConfig`.
"""
